"""Runs evaluated on stores: the table of images, the files that are saved, what is refused."""

import csv
import json
import sys
from functools import partial

import numpy as np
import pytest
import torch

from declip_pipeline.errors import (
    DeclipError,
    IdentityMismatchError,
    InputError,
    UnknownNameError,
)
from declip_pipeline.evaluation import ensemble as ensemble_module
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def run(mixed_store, tmp_path_factory):
    return train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4),
        train_on=["ldm"],
    )


@pytest.mark.slow
def test_an_evaluation_is_a_table_of_images(run, mixed_store, cpu):
    told = []
    evaluation = evaluate(
        run, mixed_store, device=cpu, progress=lambda done, total: told.append((done, total))
    )
    rows = mixed_store.fake_rows("test")
    # Real images as well, for the false alarms.
    count = len(mixed_store.fake_and_real_rows("test"))
    assert told[-1] == (count, count) and count > len(rows)
    table = evaluation.to_arrow()
    assert table.column_names == [
        *("run", "store", "dataset", "view", "id", "split", "generator", "label", "scene"),
        *("has_fake", "iou", "f1_best", "f1_fixed", "ap", "iou_valid_threshold", "iou_min_region"),
        *("f1", "f1_optimal", "auc", "mcc", "precision", "recall"),
        *("found_pixels", "called_pixels", "fake_pixels"),
        *("score", "score_max", "score_top", "fake_share"),
        *("fake_share_valid_threshold", "fake_share_min_region"),
    ]
    assert table.column("id").to_pylist() == [mixed_store.samples.ids[row] for row in rows]
    frame = evaluation.to_pandas()
    assert set(frame["run"]) == {run.path.name} and set(frame["dataset"]) == {"mixed"}
    assert set(frame["view"]) == {"clean"} and set(frame["generator"]) == {"lama", "ldm"}
    assert evaluation.mean("iou") == pytest.approx(frame["iou"].mean())
    ldm = frame[frame["generator"] == "ldm"]["f1_best"].mean()
    assert evaluation.mean("f1_best", generator="ldm") == pytest.approx(ldm)
    low, high = evaluation.interval("iou")
    assert low <= evaluation.mean("iou") <= high
    with pytest.raises(UnknownNameError, match="unknown metric 'iuo'; did you mean 'iou'"):
        evaluation.mean("iuo")
    with pytest.raises(UnknownNameError, match="unknown generator of the evaluation 'lam'"):
        evaluation.interval("iou", generator="lam")


@pytest.mark.slow
def test_a_data_frame_needs_pandas(run, mixed_store, cpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DeclipError, match=r"pandas is not installed; .* take `to_arrow\(\)`"):
        evaluate(run, mixed_store, device=cpu).to_pandas()


def test_nothing_is_written_before_it_is_saved(run, mixed_store, cpu, tmp_path):
    evaluation = evaluate(run.path, mixed_store.location, device="cpu")
    assert not (run.path / EVALUATIONS).exists()
    (folder,) = evaluation.save(tmp_path)
    assert folder.name == f"mixed-test-{mixed_store.identity.sha256[:16]}"
    rows = list(csv.DictReader((folder / "per_image.csv").read_text().splitlines()))
    ids = mixed_store.samples.ids
    assert [row["id"] for row in rows] == [ids[row] for row in mixed_store.fake_rows("test")]
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary) == [
        *(
            "store",
            "inputs",
            "checkpoint_sha256",
            "split",
            "generators",
            "top_share",
            "best_on_valid",
        ),
        *("per_image_sha256", "dataset", "location", "input_locations", "view", "trained_on"),
        *("problem", "overall"),
        "by_generator",
    ]
    assert summary["overall"] == evaluation.figures()
    assert summary["by_generator"]["ldm"] == evaluation.figures("ldm")
    assert summary["overall"]["images"] == 8
    assert summary["store"] == mixed_store.identity.sha256
    assert summary["inputs"] == [mixed_store.identity.sha256]


def test_saved_values_of_the_same_weights_are_taken_when_asked(run, mixed_store, cpu, monkeypatch):
    again = partial(evaluate, run, mixed_store, split="valid", device=cpu)
    first = again()
    (folder,) = first.save(run.path / EVALUATIONS)

    def fail(*arguments, **options):
        pytest.fail("evaluated again")

    monkeypatch.setattr(ensemble_module, "localize", fail)
    assert again(reuse=True).to_arrow().equals(first.to_arrow())
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"checkpoint_sha256": "', '"x": "'))
    with pytest.raises(pytest.fail.Exception, match="evaluated again"):
        again(reuse=True)


def test_a_part_of_the_generators_has_a_folder_of_its_own(run, mixed_store, cpu, tmp_path):
    def save(generators=None):
        found = evaluate(run, mixed_store, generators=generators, device=cpu)
        return found.save(tmp_path)[0]

    whole = save()
    part = save(["ldm"])
    assert part.name.startswith("mixed-test-ldm-")
    summary = json.loads((part / "summary.json").read_text())
    assert summary["generators"] == list(summary["by_generator"]) == ["ldm"]
    assert json.loads((whole / "summary.json").read_text())["generators"] == ["lama", "ldm"]
    assert save(["ldm", "lama"]) == whole


def test_each_store_gives_the_named_generators_it_has(tiny_store, mixed_store):
    select = partial(Selection, [tiny_store, mixed_store])
    chosen = select(generators=["noisy", "ldm"])
    assert [(part.store, part.generators) for part in chosen.parts] == [
        (tiny_store, ("noisy",)),
        (mixed_store, ("ldm",)),
    ]
    chosen = select(generators=["lama"])
    assert [part.store for part in chosen.parts] == [mixed_store]
    assert chosen.left_out == [tiny_store.location]
    assert [part.generators for part in select().parts] == [None, None]
    with pytest.raises(InputError, match="'lam'; did you mean 'lama'. known: lama, ldm, noisy"):
        select(generators=["lam"])


def test_a_store_or_run_given_twice_is_taken_once(run, mixed_store, cpu, tmp_path):
    again = Store(mixed_store.location)
    chosen = Selection([mixed_store, again])
    assert [part.store for part in chosen.parts] == [mixed_store]
    assert chosen.repeated == [mixed_store.location]
    once, twice = (evaluate(run, some, device=cpu) for some in (mixed_store, [mixed_store, again]))
    assert once.to_arrow().equals(twice.to_arrow())
    # A copy of the run's folder is the same run.
    copy = type(run)(tmp_path / "copy")
    copy.begin(run.config(), run.config()["run_sha256"])
    several = Ensemble([run, run.path, copy])
    assert (several.runs, several.repeated) == ((run,), [run.path, copy.path])


def test_everything_is_checked_before_the_first_is_evaluated(run, mixed_store, tmp_path):
    unfinished = type(run)(tmp_path / "run")
    unfinished.begin(run.config(), run.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished; run the same `declip-pipe train`"):
        evaluate(unfinished, mixed_store)
    other = Store(mixed_store.location)
    object.__setattr__(other.identity, "weights_sha256", "0" * 64)
    with pytest.raises(IdentityMismatchError, match="^weights_sha256 differs"):
        Selection([mixed_store, other]).check(run)
    with pytest.raises(InputError, match="unknown split"):
        Selection([mixed_store], split="tset")
    other.fake_rows = lambda split, generators: np.empty(0, np.int64)
    with pytest.raises(InputError, match="no fake image of lama, ldm in split 'test' of .*expecte"):
        Selection([other])


def test_a_run_records_the_datasets_that_it_learned(run, mixed_store, cpu):
    assert run.config()["datasets"] == {"mixed": ["ldm"]}
    evaluation = evaluate(run, mixed_store, device=cpu)
    assert evaluation.is_in_domain("mixed", "ldm")
    assert not evaluation.is_in_domain("mixed", "lama")
    assert not evaluation.is_in_domain("another", "ldm")
    assert evaluation.method == f"linear on layer1 of {mixed_store.identity.backbone}"
