"""Runs on the same images: which stores each takes, what pairs images, what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.compare import compare, plan_comparison
from declip_pipeline.evaluation.metrics import DEFAULT_METRICS
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


def test_each_run_takes_the_store_of_its_features(trained, changed, tiny_store):
    one, other = trained(), trained(layer="layer2")
    first, second = changed(layers=["layer1"]), changed(layers=["layer0", "layer2"])
    plan = plan_comparison([[one], [other]], [second, first], split="test")
    found = [(part.source.path, part.stores) for part in plan]
    assert found == [(one.path, (first,)), (other.path, (second,))]
    # Where several hold the same images the first does.
    plan = plan_comparison([[one], [other]], [tiny_store, first, second], split="test")
    assert [part.stores for part in plan] == [(tiny_store,), (tiny_store,)]


def test_runs_are_compared_on_a_store_and_nothing_is_written(trained, tiny_store):
    one, other, seed = trained(), trained(layer="layer2"), trained(seed=1)
    told = []
    found = compare(
        [one.path, [other, other.path]], tiny_store, device="cpu", on_evaluation=told.append
    )
    assert [evaluation.run for evaluation in told] == [one.path, other.path]
    assert [pair.generator for pair in found.pairs] == ["noisy"] * len(DEFAULT_METRICS)
    iou = found.pairs[0]
    assert (iou.metric, iou.images) == ("iou", 4)
    means = [found.mean(side, "iou", "noisy").value for side in (0, 1)]
    assert means == pytest.approx([runs[0].mean("iou") for runs in found.sides])
    assert iou.difference.value == pytest.approx(means[0] - means[1])
    assert found.left_out == {} and found.repeated == (other.path,)
    assert not (one.path / "evaluations").exists()
    third = trained(layer="layer0")
    three = compare([[one, seed], other, third], tiny_store, device="cpu", metrics=["iou"])
    assert three.means[0].value == pytest.approx(np.mean([r.mean() for r in three.sides[0]]))
    assert [pair.sides for pair in three.pairs] == [(0, 1), (0, 2), (1, 2)]


def test_images_are_paired_by_id_and_content(trained, tiny_store):
    sides = compare([trained(), trained(layer="layer2")], tiny_store, device="cpu").sides
    found = sides[0][0]
    sample = tiny_store.samples[tiny_store.fake_rows("test")[0]]
    hashes = (bytes.fromhex(text) for text in (sample.image_sha256, sample.mask_sha256))
    assert found.images()[0] == (sample.id, *hashes)


def test_what_cannot_be_compared_is_refused(trained, changed, tiny_store, tmp_path):
    one, other = trained(), trained(layer="layer2")
    plan = partial(plan_comparison, split="test")
    with pytest.raises(InputError, match="^1 run to compare; expected at least two"):
        plan([[one]], [tiny_store])
    with pytest.raises(InputError, match="have the same weights; expected two different runs"):
        plan([[one], [one]], [tiny_store])
    with pytest.raises(
        InputError, match=r"differ in more than their seed \(layer layer1; layer layer2\); expe"
    ):
        plan([[one, other], [trained(seed=1)]], [tiny_store])
    assert len(plan([[one, trained(seed=1)], [other]], [tiny_store])) == 3
    with pytest.raises(InputError, match="stores of 2 views, blur-1, clean; expected one, or imag"):
        plan([[one], [other]], [tiny_store, changed(view="blur-1")])
    foreign = changed(weights_sha256="0" * 64)
    with pytest.raises(IdentityMismatchError, match="^weights_sha256 differs: the run"):
        plan([[one], [other]], [foreign])
    with pytest.raises(IdentityMismatchError, match="none of the 2 stores has the features of the"):
        plan([[one], [other]], [foreign, changed(layers=["layer1"])])
    with pytest.raises(InputError, match="unknown generator in the stores 'ldm'"):
        plan([[one], [other]], [tiny_store], generators=["ldm"])
    unfinished = type(one)(tmp_path / "run")
    unfinished.begin(one.config(), one.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished; run the same"):
        plan([[one], [unfinished]], [tiny_store])
