"""`configs/layer_atlas.yaml`, rehearsed on a small tree and small networks."""

import csv
from pathlib import Path

import pytest
from conftest import TINY_VIT
from support.published_trees import write_dolos

ATLAS = Path(__file__).parents[2] / "configs/layer_atlas.yaml"
# In the place of three ViT-L.
NETWORKS = (
    *("--set", "clip.arch=CLIP:from-file", "--set", f"clip.weights={TINY_VIT}"),
    *("--set", "dinov2.arch=timm:test_vit", "--set", "dinov2.weights=random:0"),
    *("--set", "dinov3.arch=efficientnet-lite0"),
)


@pytest.mark.slow
def test_every_layer_of_every_backbone_stands_in_and_out_of_domain(program, tmp_path):
    write_dolos(tmp_path / "dolos", count=4)
    command = (
        "reproduce", ATLAS, "--data", tmp_path / "dolos/celebahq", *NETWORKS,
        "--set", "train.epochs=1", "--set", "train.batch_size=4",
        "--cache", tmp_path / "cache", "--runs", tmp_path / "runs", "--out", tmp_path / "atlas",
    )  # fmt: skip
    outcome = program(*command)
    assert outcome.code == 0, outcome
    page = Path(outcome.last_line)
    with page.with_name("table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = [row for row in rows if row["ours"]]
    layers = {
        column: [row["row"] for row in known if row["column"] == column]
        for column in dict.fromkeys(row["column"] for row in rows)
    }
    # In two tables, in domain and out of domain.
    assert layers.pop("CLIP:from-file") == [f"layer{number}" for number in range(4)] * 2
    assert layers.pop("efficientnet-lite0") == [f"layer{number}" for number in range(1, 6)] * 2
    ((name, of_vit),) = layers.items()
    assert name.startswith("timm:test_vit") and of_vit == of_vit[: len(of_vit) // 2] * 2
    for row in known:
        assert 0 <= float(row["low"]) <= float(row["ours"]) <= float(row["high"]) <= 100
    text = page.read_text()
    assert "## ID" in text and "## OOD" in text
    assert page.with_name("table.png").is_file() and page.with_name("table-2.png").is_file()
    again = program(*command)
    assert again.code == 0 and again.last_line == outcome.last_line
    assert again.err.count("the store is complete already") == 3


def test_it_ships_with_the_program(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused("reproduce", "configs/layer_atlas.yaml", "--data", "dolos")
    assert "--data dolos=dolos: dolos is not there" in line
    line = refused("reproduce", "configs/grid.yaml", "--data", "dolos")
    assert "unknown study 'configs/grid.yaml'" in line


def test_the_first_line_is_the_command():
    first = ATLAS.read_text().splitlines()[0]
    assert first == "# declip-pipe reproduce configs/layer_atlas.yaml --data dolos=dolos/celebahq"
