"""`declip-pipe reproduce`: the field's protocols, rehearsed on small benchmarks and weights."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import TINY_VIT
from support import benchmark_trees as trees

CONFIGS = Path(__file__).parents[2] / "configs"
PROTOCOLS = ("opensdi", "imdl_cat", "imdl_mvss")
TINY = (
    "--set", "extract.arch=CLIP:from-file", "--weights", TINY_VIT,
    "--set", "extract.layers=layer3", "--set", "train.layers=layer3",
    "--set", "train.decoders=linear", "--set", "train.epochs=1", "--set", "train.batch_size=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("protocols")


@pytest.fixture(scope="module")
def imdl(place) -> dict[str, Path]:
    """The datasets of IMDL-BenCo's protocols: trees, Tp/ and Gt/, and JSON lists."""
    found = {
        "casia2": trees.write_casia2(place / "CASIA2", count=60, other_sizes=1),
        "casia1": trees.write_casia1(place / "CASIA1"),
        "columbia": trees.write_columbia(place / "Columbia"),
        "nist16": trees.write_nist16(place / "NIST16"),
        "imd2020": trees.write_imd2020(place / "IMD2020", count=12),
    }
    # As IMDL-BenCo converts it.
    made = trees.write_coverage(place / "made")
    for number in range(1, 5):
        for source, kind in ((f"image/{number}t.tif", "Tp"), (f"mask/{number}forged.tif", "Gt")):
            (place / "COVERAGE" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(made / source, place / f"COVERAGE/{kind}/{number}t.tif")
    found["coverage"] = place / "COVERAGE"
    for place_of, name in enumerate(("fantasticreality", "tampcoco_sp", "tampcoco_cm")):
        copied = trees.write_casia2(place / name, count=16, seed=300 + place_of)
        pairs = [
            [f"{name}/Tp/{image.name}", f"{name}/CASIA 2 Groundtruth/{image.stem}_gt.png"]
            for image in sorted((copied / "Tp").iterdir())
        ]
        pairs += [[f"{name}/Au/{image.name}", "Negative"] for image in (copied / "Au").iterdir()]
        found[name] = place / f"{name}.json"
        found[name].write_text(json.dumps(pairs))
    return found


def rehearse(program, place, name, data, *more):
    given = [part for key, path in data.items() for part in ("--data", f"{key}={path}")]
    return program(
        "reproduce", CONFIGS / f"{name}.yaml", *given, *TINY, "--cache", place / "cache",
        "--runs", place / "runs", "--out", place / "tables" / name, *more,
    )  # fmt: skip


def table_of(place, name):
    with (place / "tables" / name / "table.csv").open(newline="") as file:
        return {(row["row"], row["column"]): row for row in csv.DictReader(file)}


def test_every_protocol_names_its_command_and_prints_means_of_its_source():
    for name in PROTOCOLS:
        text = (CONFIGS / f"{name}.yaml").read_text()
        study = yaml.safe_load(text)
        first = text.splitlines()[0]
        assert first.startswith(f"# declip-pipe reproduce configs/{name}.yaml --data ")
        for dataset in {store["data"] for store in study["stores"].values()}:
            assert f"--data {dataset}=" in first
        tested = {one for store in study["test"]["stores"] for one in generators(study, store)}
        for published in study["published"]:
            assert published["source"] and published["metric"] in ("iou", "f1")
            for figures in published["others"].values():
                assert figures.keys() == {*tested, "mean"}
                own = [figures[one] for one in tested]
                # Sources round both the figures and their mean.
                assert figures["mean"] == pytest.approx(sum(own) / len(own), abs=0.11)


def generators(study, store):
    return study["stores"][store]["options"]["generators"]


@pytest.mark.slow
def test_opensdi_stands_beside_the_published_methods(program, place):
    root = trees.write_opensdi(place / "OpenSDI", train=40)
    data = {"opensdi_train": root / "OpenSDI_train", "opensdi_test": root / "OpenSDI_test"}
    outcome = rehearse(program, place, "opensdi", data, "--done")
    assert outcome.code == 0, outcome
    assert "runs are missing: train[0]: no store opensdi_train, opensdi_test" in outcome.out
    assert "```" not in (place / "tables/opensdi/table.md").read_text()
    outcome = rehearse(program, place, "opensdi", data)
    assert outcome.code == 0, outcome
    table = table_of(place, "opensdi")
    models = ("flux", "sd15", "sd2", "sd3", "sdxl")
    ours = "linear, sd15+sd15-entire"
    rows = list(dict.fromkeys(row for row, _ in table))
    assert rows == [
        ours, "MaskCLIP", "CAT-Net", "TruFor", "IML-ViT", "MVSS-Net", "PSCC-Net", "DeCLIP",
        "ObjectFormer",
    ]  # fmt: skip
    assert {column for _, column in table} == {*models, "mean"}
    values = [float(table[ours, model]["ours"]) for model in models]
    assert float(table[ours, "mean"]["ours"]) == pytest.approx(sum(values) / 5)
    assert float(table[ours, "mean"]["low"]) <= float(table[ours, "mean"]["high"])
    assert table["DeCLIP", "flux"]["published"] == "11.21"
    assert table["DeCLIP", "flux"]["ours"] == ""
    assert "- (67.12)" in outcome.out and "OpenSDI's leaderboard" in outcome.out
    assert (place / "tables/opensdi/table.png").is_file()
    # F1 has a table of its own, beside the F1 that was published.
    second = table_of(place, "opensdi/f1")
    assert second.keys() == table.keys()
    assert second["DeCLIP", "flux"]["published"] == "14.29"
    assert float(second[ours, "mean"]["ours"]) > float(table[ours, "mean"]["ours"])
    assert outcome.last_line == str(place / "tables/opensdi/f1/table.md")


@pytest.mark.slow
def test_mvss_protocol_tests_on_trees_and_converted_folders(program, place, imdl):
    data = {name: imdl[name] for name in imdl if name[:4] not in ("fant", "tamp")}
    outcome = rehearse(program, place, "imdl_mvss", data)
    assert outcome.code == 0, outcome
    table = table_of(place, "imdl_mvss")
    ours = {column: row for (name, column), row in table.items() if name == "linear, casia2"}
    assert ours.keys() == {"casia1", "columbia", "coverage", "imd2020", "nist16", "mean"}
    assert all(0 <= float(row["ours"]) <= 100 for row in ours.values())
    published = table_of(place, "imdl_mvss/f1")
    assert published["TruFor", "columbia"]["published"] == "86.5"
    assert ("TruFor", "columbia") not in table
    # A mask of another size is a failed row, and said.
    assert "failed: Tp/Tp_D_CRN_S_N_cha00059_nat30159_11877.tif: its mask" in outcome.err
    assert "has 48x39 pixels, its image 48x40" in outcome.err


@pytest.mark.slow
def test_cat_protocol_goes_on_without_what_is_missing(program, place, imdl, tmp_path):
    data = imdl | {"nist16": tmp_path / "absent"}
    outcome = rehearse(program, place, "imdl_cat", data)
    assert outcome.code == 1, outcome
    said = (
        f"left out: nist16: --data nist16={tmp_path}/absent: {tmp_path}/absent is not there; "
        "expected a dataset"
    )
    lines = " ".join(outcome.err.split())
    assert said in lines
    assert "left out: tampcoco_bcm: say where it lies: --data tampcoco_bcm=PATH" in lines
    table = table_of(place, "imdl_cat")
    assert {column for _, column in table} == {"casia1", "columbia", "coverage", "mean"}
    learned = "casia2+fantasticreality+imd2020+tampcoco-cm+tampcoco-sp"
    assert {row for row, _ in table} == {f"linear, {learned}"}
    page = (place / "tables/imdl_cat/table.md").read_text()
    assert "left out, so not the whole protocol: nist16: " in page
    report = (place / "tables/imdl_cat/report.html").read_text()
    assert "say where it lies: --data tampcoco_bcm=PATH" in report


@pytest.mark.slow
def test_without_a_dataset_to_learn_from_nothing_begins(refused, place, imdl, tmp_path):
    line = refused(
        "reproduce", CONFIGS / "imdl_mvss.yaml", "--data", f"casia1={imdl['casia1']}", *TINY,
        "--cache", tmp_path / "cache", "--runs", tmp_path / "runs", "--out", tmp_path / "out",
    )  # fmt: skip
    assert line.startswith("the study has nothing left to learn from: ")
    assert "casia2: say where it lies: --data casia2=PATH" in line
    assert list(tmp_path.iterdir()) == []


def test_protocols_ship_with_the_program(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused("reproduce", "configs/opensdi.yaml", "--data", "opensdi_train=x")
    assert "the study has nothing left to learn from" in line
    line = refused("reproduce", "configs/opensd.yaml", "--data", "x")
    assert "did you mean 'configs/opensdi.yaml'" in line and "configs/grid.yaml" not in line
