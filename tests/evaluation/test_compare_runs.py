"""Runs on the same images: which stores each takes, what pairs images, what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from support.made_evaluation import localized

from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.compare import compare, compared_means, plan_comparison
from declip_pipeline.evaluation.scores import METRICS
from declip_pipeline.metrics.bootstrap import paired_difference
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def trained(tiny_store, tmp_path_factory):
    data = TrainingData([tiny_store], device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("runs")

    def train(layer="layer1", seed=0):
        recipe = Recipe("linear", epochs=1, batch_size=4, seed=seed)
        return train_run(data, folder, layer=layer, recipe=recipe)

    return train


@pytest.fixture
def changed(tiny_store):
    """The tiny store with another identity, or without some layers."""

    def change(layers=None, **fields):
        store = Store(tiny_store.location)
        if layers is not None:
            store.layers = {name: store.layers[name] for name in layers}
        store.identity = replace(store.identity, **fields)
        return store

    return change


def test_differences_are_of_the_same_images_by_generator_and_overall():
    ours, theirs = [60.0, 70.0, 90.0], [50.0, 55.0, 85.0]
    rows = compared_means(
        [localized("a", lama=[10.0, 30.0], ldm=ours)],
        [localized("b", ldm=theirs, lama=[20.0, 20.0])],
    )
    assert [(row.generator, row.metric) for row in rows] == [
        (name, metric) for name in ("lama", "ldm", "overall") for metric in METRICS
    ]
    ldm, overall = rows[len(METRICS)], rows[2 * len(METRICS)]
    assert (ldm.images, ldm.difference.value) == pytest.approx((3, 10))
    assert (ldm.first, ldm.second) == pytest.approx((220 / 3, 190 / 3))
    assert ldm.difference == paired_difference(np.array(ours), np.array(theirs))
    assert overall.images == 5
    assert overall.difference.value == pytest.approx(30 / 5)


def test_forgeries_of_one_photograph_count_as_one_overall():
    def side(*ious):
        return [localized("a", scenes="set", lama=ious, ldm=ious)]

    rows = compared_means(side(60.0, 70.0, 90.0, 20.0), side(50.0, 55.0, 85.0, 30.0))
    alone, overall = rows[0], rows[2 * len(METRICS)]
    assert overall.images == 8
    assert overall.difference.interval == pytest.approx(alone.difference.interval)
    assert overall.difference.p_value == alone.difference.p_value


def test_images_that_one_run_lacks_or_without_a_fake_are_left_out():
    first = [localized("a", ldm=[60.0, 70.0, None, 90.0])]
    rows = compared_means(first, [localized("b", ldm=[50.0, 50.0, None])])
    assert [row.generator for row in rows] == ["ldm"] * len(METRICS)
    assert (rows[0].images, rows[0].difference.value) == (2, 15.0)
    with pytest.raises(InputError, match="for both: 4 of the first run, 1 of the second, none the"):
        compared_means(first, [localized("b", lama=[1.0])])


def test_a_side_may_have_several_seeds():
    seeds = [localized("a", ldm=[60.0, 70.0]), localized("a", ldm=[62.0, 72.0])]
    rows = compared_means(seeds, [localized("b", ldm=[50.0, 50.0])])
    assert rows[0].first == 66 and rows[0].difference.value == 16
    # Two images draw 11 to 21, two seeds 9.17 to either side.
    assert rows[0].difference.interval == pytest.approx((1.83, 30.17), abs=0.01)


def test_each_run_takes_the_store_of_its_features(trained, changed, tiny_store):
    one, other = trained(), trained(layer="layer2")
    first, second = changed(layers=["layer1"]), changed(layers=["layer0", "layer2"])
    plan = plan_comparison([one], [other], [second, first], split="test")
    found = [(part.source.path, part.stores) for part in plan]
    assert found == [(one.path, (first,)), (other.path, (second,))]
    # Where several hold the same images the first does.
    plan = plan_comparison([one], [other], [tiny_store, first, second], split="test")
    assert [part.stores for part in plan] == [(tiny_store,), (tiny_store,)]


def test_runs_are_compared_on_a_store_and_nothing_is_written(trained, tiny_store):
    one, other, seed = trained(), trained(layer="layer2"), trained(seed=1)
    told = []
    found = compare(
        one.path, [other, other.path], tiny_store, device="cpu", on_evaluation=told.append
    )
    assert [evaluation.run for evaluation in told] == [one.path, other.path]
    assert [row.generator for row in found.means] == ["noisy"] * len(METRICS)
    iou = found.means[0]
    assert (iou.metric, iou.images) == ("iou", 4)
    assert iou.first == pytest.approx(found.first[0].mean("iou"))
    assert iou.second == pytest.approx(found.second[0].mean("iou"))
    assert iou.difference.value == pytest.approx(iou.first - iou.second)
    assert found.left_out == {} and found.repeated == (other.path,)
    assert not (one.path / "evaluations").exists()
    seeds = compare([one, seed], other, tiny_store, device="cpu").means[0]
    means = [found.first[0].mean(), compare(seed, other, tiny_store).first[0].mean()]
    assert seeds.first == pytest.approx(np.mean(means))


def test_images_are_paired_by_id_and_content(trained, tiny_store):
    found = compare(trained(), trained(layer="layer2"), tiny_store, device="cpu").first[0]
    sample = tiny_store.samples[tiny_store.fake_rows("test")[0]]
    hashes = (bytes.fromhex(text) for text in (sample.image_sha256, sample.mask_sha256))
    assert found.images()[0] == (sample.id, *hashes)


def test_what_cannot_be_compared_is_refused(trained, changed, tiny_store, tmp_path):
    one, other = trained(), trained(layer="layer2")
    plan = partial(plan_comparison, split="test")
    with pytest.raises(InputError, match="have the same weights; expected two different runs"):
        plan([one], [one], [tiny_store])
    with pytest.raises(
        InputError, match=r"differ in more than their seed \(layer layer1; layer layer2\); expe"
    ):
        plan([one, other], [trained(seed=1)], [tiny_store])
    assert len(plan([one, trained(seed=1)], [other], [tiny_store])) == 3
    with pytest.raises(InputError, match="stores of 2 views, blur-1, clean; expected one, or imag"):
        plan([one], [other], [tiny_store, changed(view="blur-1")])
    foreign = changed(weights_sha256="0" * 64)
    with pytest.raises(IdentityMismatchError, match="^weights_sha256 differs: the run"):
        plan([one], [other], [foreign])
    with pytest.raises(IdentityMismatchError, match="none of the 2 stores has the features of the"):
        plan([one], [other], [foreign, changed(layers=["layer1"])])
    with pytest.raises(InputError, match="unknown generator in the stores 'ldm'"):
        plan([one], [other], [tiny_store], generators=["ldm"])
    unfinished = type(one)(tmp_path / "run")
    unfinished.begin(one.config(), one.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished; run the same"):
        plan([one], [unfinished], [tiny_store])
