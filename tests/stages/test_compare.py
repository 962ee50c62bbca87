"""`declip-pipe compare`, and evaluations over seeds, as the user sees them."""

import errno
import os
import re
from pathlib import Path

import pytest

from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.metrics import DEFAULT_METRICS, protocol_lines
from declip_pipeline.training.learning import MARK, MARK_MEANING

TRAINING = ("--decoder-type", "linear", "--epochs", 2, "--batch-size", 4)


def unmarked(text):
    """Return the lines without marks of runs that learned nothing, as most here."""
    return [line.replace(MARK, "") for line in text.splitlines() if line != MARK_MEANING]


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
    found = re.search(r"noisy: IoU ([\d.]+) ± ([\d.]+) \[([\d.]+), ([\d.]+)\], F1 ", line)
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
    assert f"A{MARK}: {runs[0]}\nB{MARK}: {runs[1]}\n{MARK_MEANING}\n" in outcome.out
    lines = unmarked(outcome.out)
    assert lines[:3] == [f"A: {runs[0]}", f"B: {runs[1]}", "test split"]
    place = next(n for n, line in enumerate(lines) if line.startswith("generator"))
    assert lines[3:place] == protocol_lines(DEFAULT_METRICS)
    assert lines[place].split()[:3] == ["generator", "images", "metric"]
    assert lines[-1] == "p is not corrected for the 8 comparisons above; choose one beforehand"
    assert [line.split()[:2] for line in lines[place + 1 : -1]] == [["noisy", "4"]] * 8
    iou = re.fullmatch(
        r"noisy +4 +IoU +([\d.]+) +([\d.]+) +([-+][\d.]+) +\[(\S+), (\S+)\] +([\d.]+)",
        lines[place + 1],
    )
    assert iou is not None, lines[place + 1]
    first, second, difference, low, high, p_value = map(float, iou.groups())
    assert difference == pytest.approx(first - second, abs=0.011)
    assert low <= difference <= high
    assert 0 < p_value <= 1
    computing = "declip_pipeline.evaluation.ensemble.localize"
    monkeypatch.setattr(computing, lambda *arguments, **options: pytest.fail("evaluated again"))
    assert program(*command).out == outcome.out


def test_compare_ranks_more_than_two_and_corrects_for_their_pairs(
    program, runs, tiny_run, tiny_store, tmp_path
):
    command = ("compare", *runs[:2], tiny_run, "--on", tiny_store.location)
    outcome = program(*command, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    lines = unmarked(outcome.out)
    assert lines[:3] == [f"{'ABC'[n]}: {run}" for n, run in enumerate((*runs[:2], tiny_run))]
    table = lines[lines.index("IoU (percent), test split, noisy, 4 images") + 1 :]
    assert table[0].split() == ["rank", "ranks", "run", "IoU", "95%", "interval"]
    assert sorted(line.split()[4] for line in table[1:4]) == ["A", "B", "C"]
    assert table[4].split() == ["pair", "difference", "95%", "interval", "p", "p", "by", "Holm"]
    assert [line[:5] for line in table[5:8]] == ["A - B", "A - C", "B - C"]
    p_values = [float(line.split()[-2]) for line in table[5:8]]
    corrected = [float(line.split()[-1]) for line in table[5:8]]
    smallest = p_values.index(min(p_values))
    assert corrected[smallest] == pytest.approx(min(1.0, 3 * p_values[smallest]), abs=2e-4)
    page = Path(lines[-1])
    assert page == tmp_path / "out" / "comparison.md"
    assert {file.name for file in page.parent.iterdir()} == {
        *("comparison.md", "ranking.csv", "pairs.csv")
    }
    several = program(*command, "--metrics", "f1_fixed,ap").out
    for title in ("TruFor's F1 at 0.5", "AP of pixels"):
        assert f"{title} (percent), test split" in several


def test_compare_says_what_runs_cost(program, runs, tiny_run, tiny_store, monkeypatch):
    monkeypatch.setattr("declip_pipeline.compute.MEASURED_SECONDS", 0.01)
    outcome = program("compare", runs[0], tiny_run, "--on", tiny_store.location, "--cost")
    assert outcome.code == 0, outcome.err
    lines = unmarked(outcome.out)
    start = next(n for n, line in enumerate(lines) if line.startswith("cost of an image"))
    assert lines[start + 1].split()[:3] == ["run", "decoder", "M"]
    rows = [line.split() for line in lines[start + 2 : start + 4]]
    assert [row[0] for row in rows] == ["A", "B"]
    assert rows[0][4:6] == rows[1][4:6], "one backbone"
    assert float(rows[0][1]) < float(rows[1][1])
    of_evaluate = program("evaluate", *runs, "--on", tiny_store.location, "--cost").out
    # Seeds cost the same.
    table = of_evaluate[of_evaluate.index("cost of an image") :].splitlines()
    assert len(table) == 3 and table[2].split()[0] == Path(runs[0]).name


def test_compare_takes_seeds_on_a_side(program, runs, tiny_run, tiny_store):
    outcome = program(
        *("compare", f"{runs[0]},{runs[1]}", tiny_run, "--on", tiny_store.location),
        *("--split", "valid", "--generators", "noisy"),
    )
    assert outcome.code == 0, outcome.err
    assert unmarked(outcome.out)[:3] == [
        *(f"A: {runs[0]}, {runs[1]}", f"B: {tiny_run}", "valid split")
    ]


def test_compare_refuses_in_a_line(refused, runs, tiny_store, tmp_path):
    on = ("--on", tiny_store.location)
    assert "have the same weights" in refused("compare", runs[0], runs[0], *on)
    line = refused("compare", runs[0], runs[1], "--on", tmp_path / "none", code=1)
    assert "does not exist and is not a feature store" in line
    assert "is not a run" in refused("compare", runs[0], tmp_path / "none", *on)
    assert "has an empty item" in refused("compare", f"{runs[0]},", runs[1], *on)
    assert "1 run to compare; expected at least two" in refused("compare", runs[0], *on)
    line = refused("compare", runs[0], runs[1], *on, "--metrics", "iuo")
    assert "unknown metric 'iuo'; did you mean 'iou'" in line
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
