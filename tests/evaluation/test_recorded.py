"""Evaluations read back from the folders of runs."""

import json
import shutil

import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation import recorded
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.recorded import (
    StoreFinder,
    read_evaluations,
    recorded_evaluations,
)
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture
def run(mixed_store, tmp_path):
    return train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path / "runs",
        layer="layer1",
        recipe=Recipe("linear", epochs=1, batch_size=4, learning_rate=1e-2),
    )


def test_what_was_saved_is_read_back_without_computing(run, mixed_store, monkeypatch):
    first = evaluate(run, mixed_store, device="cpu")
    first.save(run.path / EVALUATIONS)
    (about,) = recorded_evaluations(run)
    assert about.places == {mixed_store.identity.sha256: mixed_store.location}

    def never(*arguments, **options):
        raise AssertionError("computed")

    monkeypatch.setattr("declip_pipeline.evaluation.ensemble.localize", never)
    (again,) = read_evaluations([run], StoreFinder(), device="cpu")
    assert again.table.equals(first.table) and again.real.equals(first.real)


def test_a_part_of_the_generators_stays_a_part(run, mixed_store):
    evaluate(run, mixed_store, generators="ldm", device="cpu").save(run.path / EVALUATIONS)
    (again,) = read_evaluations([run], StoreFinder(), device="cpu")
    assert again.generators == ["ldm"]


def test_a_run_that_was_never_evaluated_is_refused_with_the_command(run, mixed_store):
    with pytest.raises(InputError, match=r"never evaluated on split 'test'; `declip-pipe evaluate"):
        read_evaluations([run], StoreFinder(), device="cpu")
    with pytest.raises(InputError, match=f"--on {mixed_store.location}"):
        read_evaluations([run], StoreFinder([mixed_store]), device="cpu")
    evaluate(run, mixed_store, split="valid", device="cpu").save(run.path / EVALUATIONS)
    with pytest.raises(InputError, match="never evaluated on split 'test'"):
        read_evaluations([run], StoreFinder(), device="cpu")


def test_it_is_evaluated_where_that_is_asked_for(run, mixed_store):
    with pytest.raises(InputError, match="a store that it was trained on is not found; name"):
        read_evaluations([run], StoreFinder(), evaluate_missing=True, device="cpu")
    finder = StoreFinder([mixed_store])
    (found,) = read_evaluations([run], finder, evaluate_missing=True, device="cpu")
    assert found.generators == ["lama", "ldm"]
    # It is kept.
    assert len(recorded_evaluations(run)) == 1


def test_a_store_that_moved_is_found_in_the_cache(run, mixed_store, tmp_path):
    evaluate(run, mixed_store, device="cpu").save(run.path / EVALUATIONS)
    (file,) = (run.path / EVALUATIONS).glob("*/summary.json")
    summary = json.loads(file.read_bytes()) | {"location": "/nowhere", "input_locations": []}
    file.write_text(json.dumps(summary))
    with pytest.raises(InputError, match="it lay at /nowhere; name it with `on`"):
        read_evaluations([run], StoreFinder([], tmp_path / "none"), device="cpu")
    moved = tmp_path / "cache" / "mixed" / "backbone" / "moved"
    shutil.copytree(mixed_store.location, moved)
    (found,) = read_evaluations([run], StoreFinder([], tmp_path / "cache"), device="cpu")
    assert found.stores[0].location == str(moved)


def test_records_of_other_weights_and_damaged_ones_are_left_out(run, mixed_store):
    evaluate(run, mixed_store, device="cpu").save(run.path / EVALUATIONS)
    (file,) = (run.path / EVALUATIONS).glob("*/summary.json")
    content = file.read_bytes()
    file.write_text(json.dumps(json.loads(content) | {"checkpoint_sha256": "0" * 64}))
    assert recorded.recorded_evaluations(run) == []
    for damaged in (b"{", b"[1]", b'{"checkpoint_sha256": 1}', b"null"):
        file.write_bytes(damaged)
        assert recorded.recorded_evaluations(run) == []
    file.write_bytes(content)
    assert len(recorded.recorded_evaluations(run)) == 1
