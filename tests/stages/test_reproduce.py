"""`declip-pipe reproduce`: every table of configs/paper, rehearsed on small trees and weights."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY_RESNET, TINY_VIT
from support.published_trees import write_autosplice, write_dolos

PAPER = Path(__file__).parents[2] / "configs/paper"
GENERATORS = ["ldm", "repaint-p2-9k", "lama", "pluralistic"]
VIT = ("--set", "extract.arch=CLIP:from-file", "--weights", TINY_VIT)
RESNET = ("--set", "extract.arch=CLIP:from-file", "--weights", TINY_RESNET)
FUSION = (
    "--set", "extract.arch=CLIP:from-file,CLIP:from-file",
    "--weights", TINY_VIT, "--weights", TINY_RESNET,
)  # fmt: skip
QUICK = ("--set", "train.epochs=1", "--set", "train.batch_size=4")
NARROW = ("--set", "train.widths=[8,8,4,4]")
DEEP = ("--set", "extract.layers=layer3", "--set", "train.layers=layer3")
# What is put in the place of weights that a test cannot have.
REHEARSALS = {
    "matrix": (*FUSION, *DEEP, *NARROW),
    "matrix_vit": (*VIT, *DEEP, *NARROW),
    "matrix_rn50": (*RESNET, *DEEP, *NARROW),
    "layers_vit": (*VIT, *NARROW),
    "layers_rn50": (*RESNET, *NARROW),
    "decoders": (*VIT, *DEEP, *NARROW),
    "autosplice": (*VIT, *DEEP, *NARROW),
    "detection": (*VIT, *DEEP),
    "baselines": (
        "--set",
        "dolos.arch=CLIP:from-file",
        "--set",
        f"dolos.weights={TINY_VIT}",
        "--set",
        "dolos.layers=layer3",
        "--set",
        "pixels.arch=pixels:64",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with both datasets; what a table extracts and trains is there for the next."""
    root = tmp_path_factory.mktemp("reproduced")
    write_dolos(root / "dolos", count=4)
    write_autosplice(root / "AutoSplice")
    return root


def rehearse(program, place, name, *more):
    extra = ("--data", f"autosplice={place / 'AutoSplice'}") if name == "autosplice" else ()
    return program(
        "reproduce", PAPER / f"{name}.yaml", "--data", f"dolos={place / 'dolos/celebahq'}", *extra,
        *REHEARSALS[name], *QUICK, "--cache", place / "cache", "--runs", place / "runs",
        "--out", place / "tables" / name, *more,
    )  # fmt: skip


def table_of(outcome):
    with Path(outcome.last_line).with_name("table.csv").open(newline="") as file:
        return {(row["row"], row["column"]): row for row in csv.DictReader(file)}


def figures_of(outcome):
    """IoU by (decoder, trained on, tested on), from the folders of the runs that were judged."""
    grid = next(Path(line) for line in outcome.out.splitlines() if line.endswith("results.csv"))
    with grid.open(newline="") as file:
        runs = [(row["decoder_type"], row["train_on"], row["run"]) for row in csv.DictReader(file)]
    return {
        (decoder, learned, generator): figures["iou"]
        for decoder, learned, run in runs
        for judged in Path(run).glob("evaluations/celebahq-test-*/summary.json")
        for generator, figures in yaml.safe_load(judged.read_text())["by_generator"].items()
    }


def test_every_table_of_the_paper_is_rehearsed_here():
    assert {file.stem for file in PAPER.glob("*.yaml")} == set(REHEARSALS)
    for file in PAPER.glob("*.yaml"):
        command = file.read_text().splitlines()[0]
        assert command.startswith(f"# declip-pipe reproduce configs/paper/{file.name} --data ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matrix", "matrix_vit", "matrix_rn50"])
def test_a_matrix_stands_beside_the_published_one(program, place, name):
    outcome = rehearse(program, place, name)
    assert outcome.code == 0, outcome
    table, published = table_of(outcome), yaml.safe_load((PAPER / f"{name}.yaml").read_text())
    published = published["published"]
    assert list(table)[:16] == [(row, column) for row in GENERATORS for column in GENERATORS]
    for (row, column), cell in table.items():
        where = {"ours": published.get("means"), **published.get("figures", {})}
        theirs = (where.get(row) or published["others"].get(row, {})).get(column)
        assert cell["published"] == ("" if theirs is None else str(theirs))
        if cell["ours"] and theirs is not None:
            assert float(cell["difference"]) == pytest.approx(float(cell["ours"]) - theirs)
    ours = np.array(
        [float(table[row, column]["ours"]) for row in GENERATORS for column in GENERATORS]
    )
    matrix = ours.reshape(4, 4)
    assert float(table["ours", "ID"]["ours"]) == pytest.approx(np.diag(matrix).mean())
    assert float(table["ours", "OOD"]["ours"]) == pytest.approx(
        matrix[~np.eye(4, dtype=bool)].mean()
    )
    assert table["Patch Forensics", "OOD"]["published"] == "20.4"
    if name == "matrix":
        assert "(51.1, " in outcome.out and "(73.85, " in outcome.out
    page = Path(outcome.last_line)
    # What was changed, and done, stands with the figures.
    assert "changed, so not the published setting: " in outcome.out
    assert "train.epochs=1" in page.read_text() and "declip-pipe train " in page.read_text()
    assert "| ldm | " in page.read_text() and (page.parent / "table.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layers_vit", "layers_rn50"])
def test_layers_are_compared_in_and_out_of_domain(program, place, name):
    outcome = rehearse(program, place, name)
    assert outcome.code == 0, outcome
    table = table_of(outcome)
    layers = list(dict.fromkeys(row for row, _ in table))
    assert len(layers) == 4 and all(layer.startswith("layer") for layer in layers)
    assert {column for _, column in table} == {"ID", "OOD"}
    assert Path(outcome.last_line).with_name("table.png").is_file()


@pytest.mark.slow
def test_decoders_are_compared(program, place):
    outcome = rehearse(program, place, "decoders")
    assert outcome.code == 0, outcome
    table = table_of(outcome)
    assert list(dict.fromkeys(row for row, _ in table)) == [
        "linear", "attention", "conv-4", "conv-12", "conv-20",
    ]  # fmt: skip
    found = figures_of(outcome)
    for decoder in ("linear", "conv-20"):
        own = [found[decoder, name, name] for name in GENERATORS]
        assert float(table[decoder, "ID"]["ours"]) == pytest.approx(np.mean(own))
        others = [found[decoder, a, b] for a in GENERATORS for b in GENERATORS if a != b]
        assert float(table[decoder, "OOD"]["ours"]) == pytest.approx(np.mean(others))


@pytest.mark.slow
def test_another_dataset_is_judged_at_each_quality(program, place):
    outcome = rehearse(program, place, "autosplice")
    assert outcome.code == 0, outcome
    rows = list(dict.fromkeys(row for row, _ in table_of(outcome)))
    assert rows == ["autosplice-75", "autosplice-90", "autosplice-100", "ours"]


@pytest.mark.slow
def test_detection_is_of_whole_pictures(program, place):
    outcome = rehearse(program, place, "detection")
    assert outcome.code == 0, outcome
    table = table_of(outcome)
    assert list(table)[:16] == [(row, column) for row in GENERATORS for column in GENERATORS]
    for cell in table.values():
        assert 0 < float(cell["low"]) <= float(cell["ours"]) <= float(cell["high"]) <= 100
    assert "AP of whole images" in outcome.out
    assert Path(outcome.last_line).with_name("table.png").is_file()


@pytest.mark.slow
def test_baselines_are_judged_as_all_others(program, place):
    outcome = rehearse(program, place, "baselines")
    assert outcome.code == 0, outcome
    table = table_of(outcome)
    assert list(table) == [
        (decoder, domain) for decoder in ("probe", "patch-forensics") for domain in ("ID", "OOD")
    ]
    cell = table["patch-forensics", "OOD"]
    assert cell["published"] == "20.4"
    assert float(cell["difference"]) == pytest.approx(float(cell["ours"]) - 20.4)


@pytest.mark.slow
def test_rows_and_columns_are_any_fields_of_runs(program, refused, place, tmp_path):
    study = yaml.safe_load((PAPER / "matrix_vit.yaml").read_text())
    del study["published"]
    study["train"][0]["options"] |= {"decoders": ["linear", "conv-4"], "layers": "all"}
    study["extract"]["layers"] = "layer2,layer3"
    config = tmp_path / "study.yaml"

    def run(table):
        config.write_text(yaml.safe_dump(study | {"table": table}))
        return program(
            "reproduce", config, "--data", place / "dolos/celebahq", *VIT, *QUICK, *NARROW,
            "--cache", tmp_path / "cache", "--runs", tmp_path / "runs", "--out", tmp_path / "out",
        )  # fmt: skip

    outcome = run({"rows": "layer", "columns": "decoder"})
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("layer \\ decoder")]
    assert [lines[number - 2] for number in heads] == ["ID", "OOD"]
    for number in heads:
        assert lines[number].split()[3:] == ["linear", "conv-4"]
        assert [line.split()[0] for line in lines[number + 1 : number + 3]] == ["layer2", "layer3"]
    assert (tmp_path / "out/table-2.png").is_file()
    rows = [row for row, _ in table_of(run({"rows": ["layer", "decoder"]}))]
    assert list(dict.fromkeys(rows)) == [
        *("layer2, linear", "layer2, conv-4", "layer3, linear", "layer3, conv-4")
    ]
    # Of two layers and two decoders there are four matrices, and no mean over them.
    text = run({"rows": "generator"}).out
    assert text.count("tested on \\ trained on") == 4
    assert "conv-4 on layer2 of CLIP:from-file" in text


@pytest.mark.slow
def test_the_same_command_again_finds_all_done(program, place):
    first = rehearse(program, place, "matrix_vit")
    again = rehearse(program, place, "matrix_vit")
    assert again.code == 0 and table_of(again) == table_of(first)
    assert "the store is complete already" in again.err and "held in memory" not in again.err
    # What is done is said as a command that anyone can give.
    assert again.err.count("$ declip-pipe extract ") == again.err.count("$ declip-pipe train ") == 1


def test_studies_ship_with_the_program(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused("reproduce", "configs/paper/matrix.yaml", "--data", "dolos")
    assert "--data dolos=dolos: dolos is not there" in line
    line = refused("reproduce", "configs/paper/matrx.yaml", "--data", "dolos")
    assert (
        "unknown study 'configs/paper/matrx.yaml'; did you mean 'configs/paper/matrix.yaml'" in line
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("test.split=tset", "unknown split"),
        ("test.generators=[lmd]", "did you mean 'ldm'"),
        ("table.metric=detection_ap", "has 4 fake and 0 real images"),
    ],
)
def test_a_test_that_cannot_be_is_refused_before_training(refused, place, change, message):
    line = refused(
        "reproduce", PAPER / "matrix_vit.yaml", "--data", place / "dolos/celebahq",
        *REHEARSALS["matrix_vit"], *QUICK, "--set", change, "--set", "dolos.generators=[ldm]",
        "--cache", place / "cache", "--runs", place / "untrained", "--out", place / "none",
    )  # fmt: skip
    assert message in line
    assert not (place / "untrained").exists() and not (place / "none").exists()


def test_what_is_wrong_is_said_before_anything_is_done(refused, program, place, tmp_path):
    study = yaml.safe_load((PAPER / "matrix_vit.yaml").read_text())
    config = tmp_path / "study.yaml"

    def line(changes=None, *arguments):
        config.write_text(yaml.safe_dump(study | (changes or {})))
        data = () if "--data" in arguments else ("--data", place / "dolos/celebahq")
        return refused(
            "reproduce", config, *data, *arguments, "--cache", tmp_path / "cache",
            "--runs", tmp_path / "runs", "--out", tmp_path / "tables",
        )  # fmt: skip

    assert "did you mean 'extract'" in line({"extracts": {}})
    assert "unknown option in" in (text := line({"extract": {"arhc": "x"}})) and "'arch'" in text
    assert "extract and stores.dolos: Missing option" in line({"extract": {}})
    step = {"stores": ["dolos"], "options": {"layers": "layer3", "epochs": "many"}}
    assert "train[0]: Invalid value for '--epochs': " in line({"train": [step]})
    step = {"stores": ["dolos"], "options": {"layers": "layer3", "tensorboard": "yes"}}
    assert "tensorboard: found 'yes'; expected true or false" in line({"train": [step]})
    step = {"stores": ["dolo"], "options": {"layers": "layer3"}}
    assert "unknown store in" in (text := line({"train": [step]})) and "'dolos'" in text
    assert "table.rows" in (text := line({"table": {"rows": "rows"}})) and "'rows'" in text
    assert "did you mean 'dolos'" in line(None, "--data", f"dolo={place}")
    assert "is not there; expected a dataset" in line(None, "--data", f"dolos={place / 'absent'}")
    twice = ("--data", place / "dolos/celebahq", "--data", f"dolos={place / 'dolos'}")
    assert "expected NAME=PATH" in line(None, *twice)
    twice = ("--data", f"dolos={place}", "--data", f"dolos={place / 'dolos'}")
    assert "dolos is given twice; expected each dataset once" in line(None, *twice)
    step = {"stores": ["dolos"], "options": {"layers": "layer3", "beside": ["dolo:layer3"]}}
    assert "unknown store in" in (text := line({"train": [step]})) and "'dolos'" in text
    text = line({"table": {"rows": "layer", "metric": ["iou", "detection_ap"]}})
    assert "table.metric: found iou, detection_ap; expected each metric once" in text
    text = line({"table": {"rows": "layer", "metric": ["f1", "f1"]}})
    assert "table.metric: found f1, f1; expected each metric once" in text
    assert "published" in (text := line({"published": {"source": "x", "metric": "iuo"}}))
    assert "'iuo'" in text
    assert "expected SECTION.KEY=VALUE" in line(None, "--set", "epochs=1")
    assert "unknown section of --set" in line(None, "--set", "trian.epochs=1")
    assert "did you mean 'epochs'" in line(None, "--set", "train.epoch=1")
    autosplice = PAPER / "autosplice.yaml"
    text = refused("reproduce", autosplice, "--data", f"dolos={place / 'dolos'}")
    assert "say where it lies: --data autosplice=PATH" in text
    assert not [path for path in tmp_path.iterdir() if path != config]
