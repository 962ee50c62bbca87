"""`declip-pipe runs ls`, and runs and grids with names of the user's own."""

import json
import os
import shutil
from pathlib import Path

import pytest

QUICK = ("--epochs", 1, "--batch-size", 4, "--decoder-type", "linear")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder for the runs of this file's tests, which read the same ones."""
    return tmp_path_factory.mktemp("made") / "runs"


@pytest.fixture
def runs(made, program, tiny_store):
    """A named run, evaluated, a run named by what it is, and a named grid of two."""
    if not made.exists():
        command = ("train", tiny_store.location, *QUICK, "-o", made)
        first = program(*command, "--layers", "layer1", "--name", "first").last_line
        assert first == str(made / "first")
        program("evaluate", first, "--on", tiny_store.location)
        program(*command, "--layers", "layer2")
        table = program(*command, "--layers", "layer1", "--seeds", "0,1", "--name", "seeds")
        assert table.last_line == str(made / "seeds" / "results.csv")
    return made


@pytest.mark.slow
def test_runs_are_listed_with_what_differs_and_scores(program, runs):
    header, *rows = program("runs", "ls", runs).out.splitlines()
    assert header.split()[:5] == ["run", "state", "date", "layer", "seed"]
    assert "valid IoU" in header and "IoU on noisy, test" in header
    assert "batch size" not in header and "decoder type" not in header
    names = [row.split()[0] for row in rows]
    assert names[0] == "first" and names[1].startswith("linear_layer2_all_seed0_")
    assert [Path(name).parent.name for name in names[2:]] == ["seeds", "seeds"]
    assert all(" finished " in row for row in rows)


def test_the_listing_as_json_has_what_the_files_say(program, runs):
    listed = json.loads(program("runs", "ls", runs, "--json").out)
    first, second, *grid = listed
    summary = json.loads((runs / "first" / "summary.json").read_text())
    assert first["best_score"] == summary["best_valid_iou"] and first["score"] == "iou"
    assert first["differs"] == {"layer": "layer1", "seed": 0}
    assert [one["differs"]["seed"] for one in grid] == [0, 1]
    (file,) = (runs / "first" / "evaluations").glob("*/summary.json")
    (evaluation,) = first["evaluations"]
    assert evaluation["iou"] == json.loads(file.read_text())["overall"]["iou"]
    assert second["evaluations"] == [] and first["configured"]["batch_size"] == 4
    # What records leave out, as it is the default.
    assert first["configured"]["weight_decay"] == 0.0


def test_unfinished_and_damaged_runs_are_listed_as_such(program, runs, tmp_path):
    copy = shutil.copytree(runs, tmp_path / "runs")
    (copy / "first" / "summary.json").unlink()
    (copy / "seeds" / "results.csv").unlink()
    other = next(copy.glob("linear_*"))
    (other / "config.yaml").write_text("layer: [")
    outcome = program("runs", "ls", copy)
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert outcome.code == 0
    assert " unfinished " in lines["first"] and " unreadable " in lines[other.name]
    assert "its config.yaml is damaged" in outcome.err
    alone = program("runs", "ls", copy / "first")
    assert alone.last_line.startswith("first  unfinished")


def test_a_pipe_among_the_evaluations_is_not_waited_for(program, runs, tmp_path):
    copy = shutil.copytree(runs, tmp_path / "runs")
    (summary,) = (copy / "first" / "evaluations").glob("*/summary.json")
    summary.unlink()
    os.mkfifo(summary)
    first, *_ = json.loads(program("runs", "ls", copy, "--json").out)
    assert first["evaluations"] == []


def test_folders_without_runs(program, refused, tmp_path):
    assert refused("runs", "ls", tmp_path / "no") == (
        f"{tmp_path / 'no'} is not there; expected a folder that holds runs"
    )
    (tmp_path / "file").touch()
    assert "file is a file; expected a folder" in refused("runs", "ls", tmp_path / "file")
    outcome = program("runs", "ls", tmp_path)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"no runs under {tmp_path}\n"


def test_a_name_stands_for_one_run_or_grid(program, refused, runs, tiny_store, tmp_path):
    copy = shutil.copytree(runs, tmp_path / "runs")
    command = ("train", tiny_store.location, *QUICK, "-o", copy)
    again = program(*command, "--layers", "layer1", "--name", "first")
    assert again.last_line == str(copy / "first") and "finished already" in again.err
    line = refused(*command, "--layers", "layer2", "--name", "first", code=1)
    found = "first holds another run (layer is layer1 there, layer2 here); name another output"
    assert found in line
    line = refused(*command, "--layers", "layer2", "--seeds", "0,1", "--name", "seeds", code=1)
    assert "seeds holds another grid; choose another --name" in line
    line = refused(*command, "--layers", "layer2", "--seeds", "0,1", "--name", "first", code=1)
    assert "first holds other files; choose another --name" in line
    line = refused(*command, "--layers", "layer1", "--name", "seeds", code=1)
    assert "seeds holds other files; name another output folder" in line
    for name in ("a/b", "", "..", "what else?"):
        line = refused(*command, "--layers", "layer1", "--name", name)
        assert f"--name {name!r} cannot name a folder" in line
    assert {file.name for file in copy.iterdir()} == {file.name for file in runs.iterdir()}


def test_a_name_is_no_part_of_what_a_run_is(runs):
    (alone,) = runs.glob("seeds/linear_layer1_all_seed0_*")
    assert (alone / "config.yaml").read_bytes() == (runs / "first" / "config.yaml").read_bytes()
