"""`declip-pipe report` and the options that write one: its options, texts and exit codes."""

import csv
import re
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dataset_of_its_own(tmp_path_factory):
    from support.made_dataset import write_mixed_dataset

    return write_mixed_dataset(tmp_path_factory.mktemp("own") / "mixed")


@pytest.fixture
def store(program, dataset_of_its_own, tiny_arch, tmp_path):
    command = ("extract", dataset_of_its_own, *tiny_arch, "--layers", "layer1,layer2")
    outcome = program(*command, "--cache", tmp_path / "cache")
    assert outcome.code == 0, outcome.err
    return outcome.last_line


@pytest.fixture
def runs(program, store, tmp_path):
    """A grid's folder of runs: two layers, each on both generators."""
    command = ("train", store, "--feature-layer", "layer1,layer2", "--decoder-type", "linear")
    options = ("--epochs", 1, "--batch-size", 4, "--lr", 0.01, "-o", tmp_path / "runs")
    outcome = program(*command, *options)
    assert outcome.code == 0, outcome.err
    return tmp_path / "runs"


def paths_of(runs):
    return sorted(file.parent for file in runs.glob("*/config.yaml"))


@pytest.mark.slow
def test_runs_are_evaluated_when_told_and_their_images_may_be_gone(
    program, refused, store, runs, tmp_path, dataset_of_its_own
):
    out = tmp_path / "out" / "report.html"
    line = refused("report", runs, "-o", out)
    first = paths_of(runs)[0]
    assert f"{first} and 1 others of 2 runs: never evaluated on split 'test'" in line
    assert f"`declip-pipe evaluate {first} --on STORE` does it, or pass --evaluate" in line
    assert not out.exists()
    shutil.move(dataset_of_its_own, tmp_path / "gone")
    try:
        command = ("report", runs, "-o", out, "--evaluate", "--cache", tmp_path / "cache")
        outcome = program(*command)
        assert (outcome.code, outcome.last_line) == (0, str(out)), outcome.err
        page = out.read_text()
        assert page.count('<li class="card"') == 13 and "<h1>runs</h1>" in page
        # What is evaluated now needs no option any more, whichever way it is named.
        grid = next(runs.glob("grid_*"))
        for place in (runs, grid, tmp_path):
            assert program("report", place, "-o", out, "--images", 3).code == 0
        assert out.read_text().count('<li class="card"') == 3
        both = program("report", *paths_of(runs), "-o", out, "--title", "Of both")
        assert both.code == 0 and "<h1>Of both</h1>" in out.read_text()
    finally:
        shutil.move(tmp_path / "gone", dataset_of_its_own)


@pytest.mark.slow
def test_the_commands_of_a_report_make_its_runs(program, store, runs, tmp_path):
    out = tmp_path / "report.html"
    assert program("report", runs, "-o", out, "--evaluate", "--on", store).code == 0
    (text,) = re.findall(r'<pre id="commands"[^>]*>(.*?)</pre>', out.read_text(), re.DOTALL)
    extract, *trains, evaluate = text.strip().splitlines()
    assert extract.startswith("declip-pipe extract ") and "--layers layer1,layer2" in extract
    assert len(trains) == 2 and all(store in line for line in trains)
    assert evaluate.startswith("declip-pipe evaluate ") and evaluate.endswith(f"--on {store}")
    before = {path: (path / "summary.json").read_bytes() for path in paths_of(runs)}
    for line in trains:
        # Found again, so nothing is trained.
        command = line.split()[1:]
        assert program(*command, "-o", runs).code == 0
    assert {path: (path / "summary.json").read_bytes() for path in paths_of(runs)} == before


@pytest.mark.slow
def test_evaluate_writes_a_report_and_figures(program, refused, store, runs, tmp_path):
    report, figures = tmp_path / "r.html", tmp_path / "figures"
    command = ("evaluate", *paths_of(runs), "--on", store)
    outcome = program(*command, "--report", report, "--figures", figures, "--figure-format", "pdf")
    assert (outcome.code, outcome.last_line) == (0, str(report)), outcome.err
    names = {file.name for file in figures.iterdir()}
    assert {"matrix.pdf", "matrix.csv", "matrix-2.pdf", "matrix-2.csv"} <= names
    assert len([name for name in names if name.startswith("sheet_")]) == 4
    assert all(str(figures / name) in outcome.out for name in names if name.endswith(".pdf"))
    with (figures / "matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["row"] for row in rows} == {"lama", "ldm"}
    assert {row["domain"] for row in rows} == {"ID"}
    assert float(rows[0]["low"]) <= float(rows[0]["value"]) <= float(rows[0]["high"])
    line = refused(*command, "--paper-columns", 2, "--figures", figures)
    assert "--paper-columns 2 is for figures of a paper; add --for-paper" in line
    line = refused(*command, "--views", "all", "--report", report)
    assert "--report is of one view, --views evaluates several" in line
    line = refused(*command, "--detection", "--figures", figures)
    assert "--figures are of maps, --detection evaluates whole images" in line
    line = refused(*command, "--report", tmp_path, code=1)
    assert "is a folder; name a file with --report" in line


@pytest.mark.slow
def test_ablate_leaves_a_report_and_the_figure_in_its_format(program, store, tmp_path):
    command = ("ablate", store, "--epochs", 1, "--batch-size", 4, "-o", tmp_path / "runs")
    outcome = program(*command, "--figure-format", "svg", "--for-paper")
    assert outcome.code == 0, outcome.err
    figure = Path(outcome.last_line)
    assert figure.name == "ablation.svg" and "<text" in figure.read_text()
    page = (figure.parent / "report.html").read_text()
    assert '<section id="layers"' in page and "<h1>Layers of mixed</h1>" in page


@pytest.mark.slow
def test_what_is_no_place_or_no_file_is_refused(refused, tmp_path):
    assert "is not there; expected a run, a grid" in refused("report", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no finished run in" in refused("report", tmp_path / "empty")
    line = refused("report", tmp_path, "-o", tmp_path, code=1)
    assert "is a folder; name a file with -o" in line
