"""`evaluate RUN+RUN` and `evaluate --maps`, `compare` with both, as the user sees them."""

import csv
import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.benchmark_trees import write_opensdi
from support.made_maps import maps_of, masks_of, write_maps

from declip_pipeline.datasets.file_images import DatasetImages
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run
from stages.map_sources import run_source

OTHER = "test-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def runs(mixed_store, tmp_path_factory):
    """A run of one layer, and one of two layers, whose name holds a "+"."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train_run(
            TrainingData([mixed_store], device=torch.device("cpu")),
            folder,
            layer=layer,
            recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2),
            train_on=["ldm"],
        )
        for layer in ("layer1", "layer1+layer2")
    ]


@pytest.fixture(scope="module")
def folder(mixed_store, tmp_path_factory):
    return write_maps(tmp_path_factory.mktemp("maps"), maps_of(mixed_store))


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Where evaluations of what is no run are written."""
    monkeypatch.chdir(tmp_path)


def test_names_of_runs_hold_plus_signs(runs):
    one, two = (str(run.path) for run in runs)
    assert [run.path for run in run_source(two).runs] == [runs[1].path]
    for text, expected in ((f"{one}+{two}", runs), (f"{two}+{one}", runs[::-1])):
        assert [run.path for run in run_source(text).runs] == [run.path for run in expected]


def test_an_ensemble_is_evaluated_as_one_run(program, runs, mixed_store):
    text = "+".join(str(run.path) for run in runs)
    outcome = program("evaluate", text, "--on", mixed_store.location)
    assert outcome.code == 0, outcome.err
    lines = outcome.out[outcome.out.index("linear_layer1_ldm") :].splitlines()
    place = Path(lines[0].rpartition(": ")[2])
    assert lines[0].startswith("linear_layer1_ldm_seed0+linear_layer1+layer2_ldm_seed0_")
    assert place.parts[0] == "evaluations" and (place / "per_image.csv").is_file()
    parameters = json.loads((place / "summary.json").read_text())["parameters"]
    assert parameters == sum(run.summary()["parameters"] for run in runs)
    names = ", ".join(run.name for run in runs)
    assert lines[1] == f"  mean of the logits of 2 runs, {parameters:,} parameters: {names}"
    assert lines[2].startswith("  lama: IoU ")
    assert any(line.startswith("ID ") and "OOD " in line for line in lines)
    assert not (runs[0].path / "evaluations").exists()


def test_maps_are_evaluated_beside_a_run(program, runs, folder, mixed_store):
    outcome = program(
        *("evaluate", runs[0].path, "--maps", f"TruFor={folder}", "--on", mixed_store.location),
        *("-o", "out"),
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"^TruFor on mixed, test: out/TruFor/mixed-test-\w+$", outcome.out, re.M)
    matrix = outcome.out[outcome.out.index("IoU (percent), test split") :].splitlines()
    assert matrix[0] == "IoU (percent), test split, linear on layer1 of CLIP:from-file"
    # The run of two epochs learned nothing.
    assert matrix[2].split() == ["test", "\\", "train", "TruFor", "ldm!"]
    assert matrix[5].startswith("ID ") and "(1 cell), OOD" in matrix[5]
    assert matrix[-1] == (
        "TruFor: maps of which no training set is stated (--maps NAME:GENERATOR+...=FOLDER states "
        "it), in neither mean"
    )


def test_maps_on_a_dataset_need_no_run(program, folder, mixed_store):
    data = mixed_store.provenance["root"]
    outcome = program("evaluate", "--maps", f"PSCC:ldm={folder}", "--on", data)
    assert outcome.code == 0, outcome.err
    assert "PSCC on mixed, test: evaluations/PSCC_ldm/mixed-test-" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("ID ")
    assert "false alarms on real images at 0.5: " in outcome.out
    on_store = program("evaluate", "--maps", f"PSCC:ldm={folder}", "--on", mixed_store.location)
    same = [line for line in outcome.out.splitlines() if "evaluations/" not in line]
    assert same == [line for line in on_store.out.splitlines() if "evaluations/" not in line]


def test_maps_on_parquet_files(program, tmp_path):
    """Masks are cells of a table, and of images that are fake as a whole there is no file."""
    root = write_opensdi(tmp_path / "OpenSDI") / "OpenSDI_test"
    dataset = open_dataset(root, splits=["test"])
    place = write_maps(tmp_path / "maps", maps_of(DatasetImages(dataset)))
    outcome = program("evaluate", "--maps", f"tool={place}", "--on", root)
    assert outcome.code == 0, outcome.err
    assert "false alarms on real images at 0.5: " in outcome.out
    file, *_ = (root / "data").glob("sd15-*.parquet")
    table = pq.read_table(file)
    names = ["photo" if name == "image" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), tmp_path / OTHER)
    command = ("evaluate", "--maps", f"tool={place}", "--on", tmp_path / OTHER)
    outcome = program(*command, "--columns", "image=photo", "--allow-unpaired")
    # Of other models there are maps, too.
    assert outcome.code == 1 and f"tool on {Path(OTHER).stem}, test: " in outcome.out, outcome.err


def test_a_report_shows_ensembles_and_maps(program, runs, folder, mixed_store):
    together = "+".join(str(run.path) for run in runs)
    given = (runs[0].path, together, "--maps", f"TruFor={folder}", "--maps", f"PSCC:lama={folder}")
    outcome = program(
        *("evaluate", *given, "--on", mixed_store.location, "--report", "report.html"),
        *("--figures", "figures"),
    )
    assert outcome.code == 0, outcome.err
    page = html.unescape(Path("report.html").read_text())
    assert "TruFor: maps of which no training is stated, in neither mean." in page
    assert "Mean IoU of maps of which no training is stated: TruFor " in page
    assert re.search(r'<td class="heat" [^>]*title="TruFor, tested on ldm: IoU [^"]*">', page)
    assert re.search(
        r'<td class="heat id" [^>]*title="tested on lama, trained on lama \(ID\)', page
    )
    titles = re.findall('<figure class="matrix">\n<figcaption><b>([^<]*)</b>', page)
    # No run is told from maps by each field of its training.
    assert "PSCC" in titles and len(titles) == 3
    assert not any("learning_rate" in title for title in titles)
    assert page.count("<dt>ensemble</dt>") == 0
    cards = re.findall('<li class="card"[^>]* data-run="([^"]*)"', page)
    names = [runs[0].name, run_source(together).name, "TruFor", "PSCC_lama"]
    assert {name: cards.count(name) for name in cards} == dict.fromkeys(names, 13)
    assert all(Path(f"figures/sheet_{name}.png").is_file() for name in names)
    with Path("figures/matrix.csv").open(newline="") as file:
        domains = {row["domain"] for row in csv.DictReader(file) if row["column"] == "TruFor"}
    assert domains == {""}
    (commands,) = re.findall(r'<pre id="commands"[^>]*>(.*?)</pre>', page, re.DOTALL)
    *_, again = commands.strip().splitlines()
    assert again == shlex.join(
        ["declip-pipe", "evaluate", *map(str, given), "--on", mixed_store.location]
    )


def test_a_report_of_maps_alone_says_what_they_came_to(program, folder, mixed_store):
    how = ("--on", mixed_store.location, "--maps-are", "masks", "--report", "report.html")
    masks = write_maps(Path("masks"), masks_of(mixed_store), ".png")
    assert program("evaluate", "--maps", f"TruFor={masks}", *how).code == 0
    page = html.unescape(Path("report.html").read_text())
    assert "Mean IoU of maps of which no training is stated: TruFor 100.0 [100.0, 100.0]" in page
    assert 'id="table-stores"' not in page and 'class="means"' not in page
    assert "--maps-are masks</pre>" in page


def test_what_is_missing_decides_the_exit_code(program, folder, mixed_store, tmp_path):
    maps = maps_of(mixed_store)
    names = sorted(name for name in maps if "fake" in name)
    some = {name: maps[name] for name in names[2:]}
    some |= {names[2]: np.full(maps[names[2]].shape, 0.25), "nobody": np.zeros((20, 20))}
    place = write_maps(tmp_path / "some", some)
    command = ("evaluate", "--maps", f"tool={place}", "--on", mixed_store.location)
    outcome = program(*command)
    assert outcome.code == 1
    assert [line for line in outcome.err.splitlines() if "images/s" not in line] == [
        f"{place}: 2 images ({names[0]} (no map), {names[1]} (no map)) not evaluated",
        f"{place}: 1 map (nobody.npy) without an image in the data",
        f"{place}: 1 map ({names[2]}) of one value",
        f"{place}: no map of a real image, so false alarms are not evaluated",
    ]
    (place / "nobody.npy").unlink()
    for name in names[:2]:
        write_maps(place, {name: maps[name]})
    assert program(*command).code == 0


def test_maps_are_scored_as_whole_images(program, mixed_store, tmp_path):
    both = maps_of(mixed_store) | maps_of(mixed_store, "valid")
    place = write_maps(tmp_path / "maps", both, ".png.npz")
    outcome = program(
        *("evaluate", "--maps", f"tool={place}", "--detection", "--on"),
        mixed_store.provenance["root"],
    )
    assert outcome.code == 0, outcome.err
    assert "  mean_sigmoid:" in outcome.out and "  file_score:" in outcome.out
    assert "means over cells" not in outcome.out


def test_robustness_of_maps(program, mixed_store, tmp_path):
    maps = maps_of(mixed_store)
    for name in ("clean", "jpeg-70"):
        write_maps(tmp_path / "views" / name, maps)
    command = ("evaluate", "--maps", f"tool={tmp_path / 'views'}", "--views", "all", "--on")
    outcome = program(*command, mixed_store.provenance["root"])
    assert outcome.code == 0, outcome.err
    table = outcome.out.splitlines()
    assert table[2].split() == ["view", "lama", "ldm", "overall"]
    assert [line.split()[0] for line in table[3:5]] == ["clean", "jpeg:70"]
    assert Path(table[-1]).name == "robustness.png" and Path(table[-1]).is_file()


def test_maps_are_compared(program, runs, folder, mixed_store, tmp_path):
    on = ("--on", mixed_store.location)
    outcome = program("compare", runs[0].path, f"tool={folder}", *on)
    assert outcome.code == 0, outcome.err
    # The run of two epochs learned nothing.
    assert outcome.out.splitlines()[:2] == [f"A!: {runs[0].path}", "B: tool"]
    assert "left out, no values of it for B: iou_valid_threshold" in outcome.err.splitlines()
    named = ("--metrics", "all")
    some = program("compare", runs[0].path, f"tool={folder}", *on, *named)
    assert some.code == 0 and "left out, no values of it for B: iou_valid_threshold" in some.err
    assert re.search(r"^overall +8 +IoU pooled +[\d.]+ +[\d.]+ ", some.out, re.M), some.out
    both = "+".join(str(run.path) for run in runs)
    assert program("compare", both, runs[0].path, *on).code == 0
    maps = maps_of(mixed_store, seed=1)
    name = min(maps)
    del maps[name]
    other = write_maps(tmp_path / "other", maps)
    outcome = program("compare", f"tool={folder}", f"other={other}", "--on", *on[1:])
    assert outcome.code == 1
    assert f"{other}: 1 image ({name} (no map)) not evaluated" in outcome.err
    assert "left out, not evaluated for both: 1 of tool" in outcome.err


def test_what_maps_have_none_of_is_said(program, folder, mixed_store, tmp_path):
    on = ("--on", mixed_store.location)
    outcome = program(
        *("evaluate", "--maps", f"tool={folder}", *on, "--cost"),
        *("--figures", tmp_path / "figures", "--report", tmp_path / "report.html"),
    )
    assert outcome.code == 0, outcome.err
    assert "tool: maps of another tool, whose cost is not known" in outcome.err.splitlines()
    assert (tmp_path / "figures" / "sheet_tool.png").is_file()
    with (tmp_path / "figures" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["column"], row["domain"]) for row in rows] == [("tool", "")] * 2
    page = (tmp_path / "report.html").read_text()
    assert page.count('data-method="tool"') == 13
    other = write_maps(tmp_path / "other", maps_of(mixed_store, seed=1))
    outcome = program("compare", f"tool={folder}", f"other={other}", *on, "--cost")
    assert outcome.code == 0, outcome.err
    assert "other: maps of another tool, whose cost is not known" in outcome.err.splitlines()


def test_maps_of_a_stated_training_rename_no_run(program, runs, folder, mixed_store):
    given = ("evaluate", runs[0].path, "--on", mixed_store.location, "-o", "out")
    header = r"^test \\ train +(.*)$"
    alone = re.findall(header, program(*given).out, re.M)
    beside = re.findall(header, program(*given, "--maps", f"tool:ldm={folder}").out, re.M)
    assert (alone, beside) == (["ldm!"], ["ldm!", "ldm"])


def test_maps_called_as_a_training_have_a_column_of_their_own(program, runs, folder, mixed_store):
    outcome = program(
        *("evaluate", runs[0].path, "--maps", f"ldm={folder}", "--on", mixed_store.location),
        *("-o", "out"),
    )
    assert outcome.code == 0, outcome.err
    assert re.search(r"^test \\ train +ldm! +ldm \(maps\)$", outcome.out, re.M)


def test_what_does_not_fit_is_refused(refused, runs, folder, mixed_store, tmp_path):
    on = ("--on", mixed_store.location)
    assert refused("evaluate", *on) == (
        "nothing to evaluate; expected a RUN, or --maps NAME=FOLDER"
    )
    for text in ("tool", "=x", "tool=", f"tool:={folder}", f"tool:a+={folder}"):
        line = refused("evaluate", "--maps", text, *on)
        assert line.startswith(f"--maps {text!r}; expected NAME=FOLDER, or NAME:GENERATOR")
    line = refused("evaluate", "--maps", f"a={folder}", "--maps", f"a={tmp_path}", *on)
    assert line == "two folders of maps are called a; give each its own name"
    line = refused("evaluate", "--maps", f"a={folder}", "--maps-are", "logits", *on)
    assert line.endswith("as of probabilities; leave --maps-are out")
    write_maps(tmp_path / "small", {name: np.zeros((9, 9)) for name in maps_of(mixed_store)})
    line = refused("evaluate", "--maps", f"a={tmp_path / 'small'}", *on)
    assert line.endswith("expected a map of the image's size, or pass --resize-maps")
    line = refused("evaluate", f"{runs[0].path}+{tmp_path}", *on)
    assert "is not a run" in line
    line = refused("evaluate", runs[0].path, *on, "--maps-key", "map")
    assert line == "--maps-key says how maps are read, and there are none; leave it out"
    line = refused("compare", *(run.path for run in runs), *on, "--resize-maps")
    assert line == "--resize-maps says how maps are read, and there are none; leave it out"
    line = refused("evaluate", runs[0].path, *on, "--polarity", "white-is-fake")
    assert line.startswith("--layout, --polarity, --allow-unpaired and --columns say how a dataset")
    data = mixed_store.provenance["root"]
    expected = (
        f"{data} is a dataset (layout dolos), and runs need features; expected the store that "
        "`declip-pipe extract` made of it, or maps alone, without a RUN"
    )
    assert refused("evaluate", runs[0].path, "--maps", f"a={folder}", "--on", data) == expected
    assert refused("evaluate", runs[0].path, "--on", data) == expected
    assert refused("compare", runs[0].path, f"a={folder}", "--on", data) == expected
    missing = tmp_path / "nowhere"
    for command in (("evaluate", "--maps", f"a={missing}"), ("compare", f"a={missing}", "b=x")):
        assert refused(*command, *on) == f"{missing} is no folder; expected one of maps"
    (tmp_path / "again").symlink_to(folder)
    line = refused("compare", f"a={folder}", f"b={tmp_path / 'again'}", *on)
    assert line == f"a and b are the same maps, those of {folder}; expected a folder of each"
    line = refused("evaluate", "--maps", f"a={folder}", "--on", data, "--split", "tset")
    assert "unknown split 'tset'; did you mean 'test'?" in line
