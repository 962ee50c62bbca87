"""`declip-pipe compare`, and evaluations over seeds, as the user sees them."""

import errno
import os
import re
from pathlib import Path

import pytest

from declip_pipeline.evaluation.evaluation import Evaluation

TRAINING = ("--decoder-type", "linear", "--epochs", 2, "--batch-size", 4)


@pytest.fixture(scope="module")
def runs(tiny_store, tmp_path_factory):
    """Three seeds of layer1."""
    import torch

    from declip_pipeline.training.data import TrainingData
    from declip_pipeline.training.recipe import Recipe
    from declip_pipeline.training.runs import train_run

    data = TrainingData([tiny_store], device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("runs")
    return [
        train_run(
            data,
            folder,
            layer="layer1",
            recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2, seed=seed),
        ).path
        for seed in range(3)
    ]


@pytest.mark.slow
def test_evaluate_takes_seeds_together(program, runs, tiny_store):
    outcome = program("evaluate", *runs, "--on", tiny_store.location)
    assert outcome.code == 0, outcome.err
    text = outcome.out[outcome.out.index("over 3 seeds") :]
    title, line = text.splitlines()[:2]
    assert title == "over 3 seeds (0, 1, 2)"
    assert "linear_layer1_all! on noisy, test, over 3 seeds" in outcome.out
    found = re.search(r"noisy: IoU ([\d.]+) ± ([\d.]+) \[([\d.]+), ([\d.]+)\], F1 best", line)
    assert found is not None, line
    mean, spread, low, high = map(float, found.groups())
    assert spread > 0
    each = [float(one) for one in re.findall(r"noisy: IoU ([\d.]+) \[", outcome.out)]
    assert len(each) == 3
    assert mean == pytest.approx(sum(each) / 3, abs=0.01)
    assert low <= mean <= high


@pytest.mark.slow
def test_a_run_or_store_given_twice_is_taken_once(program, runs, tiny_store):
    on = ("--on", tiny_store.location)
    once = program("evaluate", *runs, *on)
    twice = program("evaluate", *runs, runs[0], *on, *on)
    assert twice.out == once.out
    assert twice.err.count("given more than once, taken once: ") == 2
    assert f"given more than once, taken once: {runs[0]}" in twice.err
    compared = program("compare", runs[0], runs[1], *on, *on)
    assert f"given more than once, taken once: {tiny_store.location}" in compared.err
    assert compared.out == program("compare", runs[0], runs[1], *on).out


def test_aliases_are_checked_before_anything_is_evaluated(program, refused, runs, tiny_store):
    command = ("evaluate", runs[0], "--on", tiny_store.location, "--alias")
    assert "'nosy'; did you mean 'noisy'" in refused(*command, "nosy=noisy")
    assert "alias 'noisy'; expected NAME=NAME" in refused(*command, "noisy")
    assert program(*command, "noisy=noisy").code == 0


def test_compare_prints_paired_differences_and_takes_what_is_there(
    program, runs, tiny_store, monkeypatch
):
    command = ("compare", runs[0], runs[1], "--on", tiny_store.location)
    outcome = program(*command)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[:3] == [f"A: {runs[0]}", f"B: {runs[1]}", "test split"]
    assert lines[3].split()[:3] == ["generator", "images", "metric"]
    assert lines[-1] == "p is not corrected for the 5 comparisons above; choose one beforehand"
    assert [line.split()[:2] for line in lines[4:-1]] == [["noisy", "4"]] * 5
    iou = re.fullmatch(
        r"noisy +4 +IoU +([\d.]+) +([\d.]+) +([-+][\d.]+) +\[(\S+), (\S+)\] +([\d.]+)", lines[4]
    )
    assert iou is not None, lines[4]
    first, second, difference, low, high, p_value = map(float, iou.groups())
    assert difference == pytest.approx(first - second, abs=0.011)
    assert low <= difference <= high
    assert 0 < p_value <= 1
    computing = "declip_pipeline.evaluation.ensemble.localize"
    monkeypatch.setattr(computing, lambda *arguments, **options: pytest.fail("evaluated again"))
    assert program(*command).out == outcome.out


def test_compare_takes_seeds_on_a_side(program, runs, tiny_run, tiny_store):
    outcome = program(
        *("compare", f"{runs[0]},{runs[1]}", tiny_run, "--on", tiny_store.location),
        *("--split", "valid", "--generators", "noisy"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[:3] == [
        *(f"A: {runs[0]}, {runs[1]}", f"B: {tiny_run}", "valid split")
    ]


def test_compare_refuses_in_a_line(refused, runs, tiny_store, tmp_path):
    on = ("--on", tiny_store.location)
    assert "have the same weights" in refused("compare", runs[0], runs[0], *on)
    line = refused("compare", runs[0], runs[1], "--on", tmp_path / "none", code=1)
    assert "does not exist and is not a feature store" in line
    assert "is not a run" in refused("compare", runs[0], tmp_path / "none", *on)
    assert "has an empty item" in refused("compare", f"{runs[0]},", runs[1], *on)
    line = refused("compare", runs[0], runs[1], *on, "--split", "tset")
    assert "unknown split in" in line and "did you mean 'test'" in line
    assert not list(Path(runs[0]).glob("evaluations/*tset*"))


@pytest.mark.slow
def test_evaluations_go_where_they_are_told(
    program, refused, runs, tiny_store, tmp_path, monkeypatch
):
    before = sorted(Path(runs[0]).rglob("*"))
    command = ("evaluate", *runs[:2], "--on", tiny_store.location)
    outcome = program(*command, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    names = [Path(run).name for run in runs[:2]]
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == sorted(names)
    assert len(list((tmp_path / "out").rglob("per_image.csv"))) == 2
    assert sorted(Path(runs[0]).rglob("*")) == before
    # Somebody else's run is refused before anything is computed.
    access = os.access

    def can(path, mode, **options):
        wants_to_write = bool(mode & os.W_OK) and str(runs[0]) in str(path)
        return not wants_to_write and access(path, mode, **options)

    monkeypatch.setattr(os, "access", can)
    monkeypatch.setattr("declip_pipeline.evaluation.evaluate.evaluate", None)
    line = refused(*command, code=1)
    assert line.endswith("cannot be written into; name another folder with -o")
    assert line.startswith(str(runs[0]))


@pytest.mark.slow
def test_a_comparison_of_runs_that_are_only_to_be_read_is_printed(
    program, runs, tiny_store, tmp_path, monkeypatch
):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Evaluation, "save", refuse)
    outcome = program("compare", *runs[:2], "--on", tiny_store.location)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("not kept for the next command: ") == 2
    assert "p is not corrected" in outcome.out
