"""Runs judged on stores leave files, and the matrix has its cells in place."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.cross_evaluation import (
    Evaluation,
    by_method,
    evaluate_run,
    has_mixed_cells,
    iou_matrix,
    plan_evaluations,
    pooled,
    run_kind,
)
from declip_pipeline.training.localization_run import localization_run
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.training_data import TrainingData


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    return localization_run(
        TrainingData([tiny_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4),
    )


def test_an_evaluation_leaves_a_table_and_a_summary(run, tiny_store, cpu):
    evaluation = evaluate_run(run, tiny_store, split="test", device=cpu)
    assert evaluation.trained_on == ("noisy",)
    rows = list(csv.DictReader((evaluation.folder / "per_image.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [
        tiny_store.samples[row].id for row in tiny_store.fake_rows("test")
    ]
    mean = np.mean([float(row["iou"]) for row in rows])
    assert evaluation.figures["noisy"]["iou"] == pytest.approx(mean)
    summary = json.loads((evaluation.folder / "summary.json").read_text())
    assert summary["by_generator"] == evaluation.figures
    assert summary["overall"]["images"] == 4
    assert summary["overall"] == evaluation.overall == evaluation.figures["noisy"]
    assert summary["overall"]["iou_low"] <= mean <= summary["overall"]["iou_high"]
    assert summary["store"] == tiny_store.identity.sha256
    assert summary["inputs"] == [tiny_store.identity.sha256]


def test_an_evaluation_of_the_same_weights_is_taken_when_asked(run, tiny_store, cpu, monkeypatch):
    judge = partial(evaluate_run, run, tiny_store, split="valid", device=cpu)
    first = judge()
    judging = "declip_pipeline.sweeps.cross_evaluation.evaluate_localization"
    monkeypatch.setattr(judging, lambda *arguments, **options: pytest.fail("judged anew"))
    assert judge(reuse=True) == first
    summary = first.folder / "summary.json"
    summary.write_text(summary.read_text().replace('"checkpoint_sha256": "', '"x": "'))
    with pytest.raises(pytest.fail.Exception, match="judged anew"):
        judge(reuse=True)


def test_runs_of_a_kind_differ_in_their_seed_only(run):
    config = run.config()
    assert run_kind(config | {"seed": 7, "run_sha256": "0"}) == run_kind(config)
    assert run_kind(config | {"learning_rate": 1.0}) != run_kind(config)


@pytest.fixture
def two_generators(tiny_store, tmp_path):
    """The tiny store, with its fakes of the test split told apart as lama's and ldm's."""
    store = Store(tiny_store.location)
    names = [("lama", "ldm")[row % 2] for row in range(len(store.samples))]
    store.samples = store.samples.replace(generator=names)
    return store


def test_a_part_of_the_generators_has_a_folder_of_its_own(run, two_generators, cpu):
    judge = partial(evaluate_run, run, two_generators, split="test", device=cpu)
    whole = judge()
    before = (whole.folder / "summary.json").read_text()
    part = judge(generators=["ldm"])
    assert part.folder.name.startswith("noisy-test-ldm-")
    assert (whole.folder / "summary.json").read_text() == before
    summary = json.loads((part.folder / "summary.json").read_text())
    assert summary["generators"] == list(summary["by_generator"]) == ["ldm"]
    assert json.loads(before)["generators"] == ["lama", "ldm"]
    assert judge(generators=["ldm", "lama"]).folder == whole.folder


def test_each_store_is_judged_on_the_named_generators_it_has(run, tiny_store, two_generators):
    plan = partial(plan_evaluations, [run], [tiny_store, two_generators], split="test")
    assert [(store, own) for _, store, own in plan(generators=["noisy", "ldm"])] == [
        (tiny_store, ["noisy"]),
        (two_generators, ["ldm"]),
    ]
    assert [store for _, store, _ in plan(generators=["lama"])] == [two_generators]
    assert [own for *_, own in plan()] == [None, None]
    with pytest.raises(InputError, match="'lam'; did you mean 'lama'. known: lama, ldm, noisy"):
        plan(generators=["lam"])


def test_everything_is_checked_before_the_first_is_judged(run, tiny_store, tmp_path):
    unfinished = type(run)(tmp_path / "run")
    unfinished.begin(run.config(), run.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished"):
        plan_evaluations([run, unfinished], [tiny_store], split="test")
    other = Store(tiny_store.location)
    object.__setattr__(other.identity, "weights_sha256", "0" * 64)
    with pytest.raises(IdentityMismatchError, match="^weights_sha256 differs"):
        plan_evaluations([run], [tiny_store, other], split="test")
    with pytest.raises(InputError, match="unknown split"):
        plan_evaluations([run], [tiny_store], split="tset")
    other.samples = other.samples.replace(label=[0] * len(other.samples))
    with pytest.raises(InputError, match="no fake picture of .* in split 'test' of .*expected at"):
        plan_evaluations([], [other], split="test")


def test_an_unfinished_run_is_refused(run, tiny_store, cpu, tmp_path):
    folder = type(run)(tmp_path / "run")
    folder.begin(run.config(), run.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished; run the same `declip-pipe train`"):
        evaluate_run(folder, tiny_store, split="test", device=cpu)


def evaluation(trained_on, method="conv-4 on layer1", **figures):
    named = {name.replace("_", "-"): {"iou": iou} for name, iou in figures.items()}
    return Evaluation(Path(), Path(), Path(), trained_on, named, [], method=method)


def test_runs_of_other_settings_in_a_cell_are_told():
    seeds = [replace(evaluation(("ldm",), ldm=80.0), kind="a", seed=seed) for seed in (0, 1)]
    assert not has_mixed_cells([*seeds, replace(evaluation(("lama",), ldm=1.0), kind="b")])
    assert has_mixed_cells([*seeds, replace(seeds[0], kind="b")])


def test_the_matrix_has_tests_as_rows_and_trainings_as_columns():
    values, rows, columns = iou_matrix(
        [
            evaluation(("ldm",), ldm=80.0, lama=20.0, repaint=None),
            evaluation(("lama", "ldm"), ldm=10.0, lama=90.0),
            evaluation(("lama", "ldm"), ldm=20.0),
        ]
    )
    assert rows == ["lama", "ldm", "repaint"]
    assert columns == [("lama", "ldm"), ("ldm",)]
    np.testing.assert_array_equal(values, [[90, 20], [15, 80], [np.nan, np.nan]])


def test_a_matrix_is_of_one_method(run, tiny_store, cpu):
    both = [evaluation(("ldm",), "probe on layer1", ldm=20.0), evaluation(("ldm",), ldm=80.0)]
    groups = by_method([*both, both[0]])
    assert {name: len(some) for name, some in groups.items()} == {
        "probe on layer1": 2,
        "conv-4 on layer1": 1,
    }
    assert iou_matrix(groups["probe on layer1"])[0] == 20
    judged = evaluate_run(run, tiny_store, split="test", device=cpu)
    assert judged.method == f"linear on layer1 of {tiny_store.identity.backbone}"


def test_evaluations_of_several_stores_are_pooled(run, tiny_store, cpu):
    one = evaluate_run(run, tiny_store, split="test", device=cpu)
    other = evaluate_run(run, tiny_store, split="valid", device=cpu)
    both = pooled([one, other])
    ious = [result.iou for result in [*one.results, *other.results]]
    assert both.figures["noisy"]["images"] == len(ious) == 7
    assert both.figures["noisy"]["iou"] == pytest.approx(np.mean(ious))
    assert both.run == one.run
