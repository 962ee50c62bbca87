"""`--tiles` through the commands, and what it does not go together with."""

import json
from pathlib import Path

import pytest
import yaml
from support.made_dataset import write_dataset

from declip_pipeline.errors import InputError
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.store.reader import Store
from stages.study_options import read_extraction

BACKBONE = ("--arch", "efficientnet-lite0", "--layers", "layer2")


@pytest.fixture
def large_dataset(tmp_path):
    return write_dataset(tmp_path / "large", sizes=[(100, 150), (64, 90), (96, 96)])


def extracted(program, dataset, cache, *options):
    outcome = program("extract", dataset, *BACKBONE, "--cache", cache, *options)
    assert outcome.code == 0, outcome.err
    return outcome.last_line


def test_a_store_of_tiles_is_extracted_listed_and_described(program, large_dataset, tmp_path):
    location = extracted(program, large_dataset, tmp_path / "cache", "--tiles", "64:0.5")
    store = Store(location)
    assert store.identity.tiles == "64:0.5"
    assert store.layers["layer2"].height == 16
    listed = program("cache", "ls", tmp_path / "cache").out
    assert "clean@64:0.5" in listed
    found = json.loads(program("cache", "info", location, "--json").out)
    assert found["tiles"] == found["identity"]["tiles"] == "64:0.5"
    described = program("cache", "info", location).out.splitlines()
    assert ["tiles", f"{len(store)},", "0", "failed"] in [line.split() for line in described]


def test_a_dry_run_counts_tiles(program, large_dataset, tmp_path):
    outcome = program(
        *("extract", large_dataset, *BACKBONE, "--tiles", "64"),
        *("--cache", tmp_path / "cache", "--dry-run"),
    )
    assert outcome.code == 0, outcome.err
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert lines["tiles"] == "60"
    assert lines["view"] == "clean, tiles of 64:0.25"


@pytest.mark.parametrize(("value", "overlap"), [(448, 0.25), ("448:0.5", 0.5)])
def test_a_study_takes_tiles(value, overlap):
    step = read_extraction(Path("data"), {"arch": "RN50", "tiles": value}, "study.yaml")
    assert step.tiles == Tiling(448, overlap)


def test_what_yaml_makes_of_tiles_without_quotes_is_refused():
    value = yaml.safe_load("448:0.25")
    with pytest.raises(InputError, match=r"study.yaml: `tiles` is '26880.25'; .*quotes in YAML"):
        read_extraction(Path("data"), {"arch": "RN50", "tiles": value}, "study.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--tiles", "64:1"),
            "--tiles is '64:1'; expected SIZE or SIZE:OVERLAP, a side of at least 16 pixels and a "
            "share from 0 to less than 1, such as 448 or 448:0.25",
        ),
        (("--tiles", "64:-0.5"), "--tiles is '64:-0.5'; expected SIZE or SIZE:OVERLAP"),
        (
            ("--tiles", "70"),
            "images of 70x70 pixels for efficientnet-lite0, which takes multiples of 32; take an "
            "--image-size, or --tiles, such as 64",
        ),
        (
            ("--tiles", "512"),
            "--tiles of 512 pixels are larger than all images, of which the largest has 150x100; "
            "take smaller ones, or whole images with --image-size",
        ),
        (
            ("--tiles", "64", "--image-size", "96"),
            "--tiles are 64 pixels wide and high, which the backbone sees as they are; leave out "
            "--image-size",
        ),
    ],
)
def test_tiles_that_cannot_be_cut_are_refused(refused, large_dataset, tmp_path, options, message):
    line = refused("extract", large_dataset, *BACKBONE, "--cache", tmp_path / "cache", *options)
    assert line.startswith(message)
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_tiles_with_whole_views_beside_from_extraction_to_evaluation(
    program, refused, large_dataset, tmp_path
):
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    tiles = extracted(program, large_dataset, cache, "--tiles", "64")
    whole = extracted(program, large_dataset, cache, "--image-size", "64")
    options = ("--layers", "layer2", "--decoder-type", "linear", "--epochs", 1, "--batch-size", 4)
    trained = program(
        "train", tiles, *options, "--beside", f"{whole}:layer2", "-o", runs, "--name", "both"
    )
    assert trained.code == 0, trained.err
    assert "tiles of 8 images" in trained.err
    run = trained.last_line
    evaluated = program("evaluate", run, "--on", tiles, "--beside", whole)
    assert evaluated.code == 0, evaluated.err
    assert "is not used" not in evaluated.err
    assert json.loads(next((runs / "both").rglob("evaluations/*/summary.json")).read_text())
    line = refused("evaluate", run, "--on", tiles)
    assert "seeing whole images, as well, which" in line and line.endswith("with --beside")
    alone = program("train", tiles, *options, "-o", runs)
    assert alone.code == 0, alone.err
    evaluated = program("evaluate", alone.last_line, "--on", tiles, "--beside", whole)
    assert evaluated.code == 0, evaluated.err
    assert f"--beside {whole} is not used: no run takes a layer of it" in evaluated.err
    line = refused("evaluate", alone.last_line, "--on", whole, code=1)
    assert "tiles differs: the run" in line and "was trained on tiles of 64 pixels" in line
