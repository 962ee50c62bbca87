"""Runs to report on, from the places that a user names."""

import csv

import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.reports.places import runs_at
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    return train_run(
        TrainingData([tiny_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("all") / "runs",
        layer="layer1",
        recipe=Recipe("linear", epochs=1, batch_size=4),
    )


def write_results(folder, *rows):
    names = ["layer", "decoder_type", "seed", "train_on", "state", "run", "reason"]
    folder.mkdir(exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([names, *rows])


def test_a_run_and_the_folders_above_it_are_the_same_run(run):
    places = [run.path, run.path.parent, run.path.parent.parent]
    found = runs_at(places)
    assert [one.path for one in found.runs] == [run.path] and found.left_out == {}


def test_a_grid_lists_its_runs_and_what_failed(run, tmp_path):
    write_results(
        tmp_path / "grid",
        ["layer1", "linear", 0, "all", "finished", run.path, ""],
        ["layer2", "linear", 0, "all", "failed", "", "too little memory"],
        ["layer2", "linear", 1, "all", "finished", tmp_path / "gone", ""],
    )
    found = runs_at([tmp_path / "grid"])
    assert [one.path for one in found.runs] == [run.path]
    assert found.left_out == {
        "linear layer2 all seed 0": "too little memory",
        "linear layer2 all seed 1": "its folder is not there",
    }


def test_what_is_not_finished_is_named(run, tmp_path):
    (tmp_path / "runs" / "half").mkdir(parents=True)
    (tmp_path / "runs" / "half" / "config.yaml").write_bytes(
        (run.path / "config.yaml").read_bytes()
    )
    (tmp_path / "runs" / run.name).symlink_to(run.path)
    found = runs_at([tmp_path])
    assert list(found.left_out.values()) == ["unfinished"]
    assert [one.name for one in found.runs] == [run.name]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path, "is not there; expected a run, a grid, a study, or a folder"),
        (lambda path: path.write_text("x"), "is a file; expected a run"),
        (lambda path: path.mkdir(), "no finished run in"),
    ],
)
def test_a_place_without_runs_is_refused(tmp_path, make, line):
    place = tmp_path / "place"
    make(place)
    with pytest.raises(InputError, match=line):
        runs_at([place])
