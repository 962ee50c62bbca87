"""Baselines are runs like any other: from a store of pixels to a row, a mask and a grid."""

import csv
import re
from pathlib import Path

import pytest

QUICK = ("--epochs", 3, "--batch-size", 4, "--lr", "1e-2", "--initialization", "pytorch")


@pytest.fixture
def pixels(program, shared_dataset, tmp_path):
    """A store of the shared dataset's pixels."""
    outcome = program(
        "extract", shared_dataset, "--arch", "pixels:64", "--layers", "pixels",
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    return outcome.last_line


def read(table):
    """The rows of a CSV file."""
    return list(csv.DictReader(Path(table).read_text().splitlines()))


def rows_of(text):
    """Figures by run of what `evaluate` printed."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"(\S+) on noisy!?, test: ", line):
            run = match[1]
        if match := re.match(r"  noisy: IoU ([\d.]+) \[.*\], F1 .*\(4 images\)", line):
            found[run.split("_")[0]] = float(match[1])
    return found


@pytest.mark.slow
def test_their_rows_stand_beside_those_of_other_runs(
    program, refused, pixels, tiny_store, tmp_path, shared_dataset
):
    def train(store, layer, decoder, *options):
        outcome = program(
            "train", store, "--feature-layer", layer, "--decoder-type", decoder,
            *QUICK, *options, "-o", tmp_path / "runs",
        )  # fmt: skip
        assert outcome.code == 0, outcome
        return outcome.last_line

    patches = train(pixels, "pixels", "patch-forensics", "--epochs", 15)
    probe = train(tiny_store.location, "layer1", "probe")
    conv = train(tiny_store.location, "layer1", "conv-4", "--widths", "8,8,4,4")
    outcome = program(
        "evaluate", patches, probe, conv, "--on", tiny_store.location, "--beside", pixels
    )
    assert outcome.code == 0, outcome
    rows = rows_of(outcome.out)
    assert list(rows) == ["patch-forensics", "probe", "conv-4"]
    assert rows["patch-forensics"] > 15
    # On its own store it is the same.
    alone = rows_of(program("evaluate", patches, "--on", pixels).out)
    assert alone["patch-forensics"] == rows["patch-forensics"]
    # What the store gives, a prediction gives from the image.
    sample = tiny_store.samples[tiny_store.fake_rows("test")[0]]
    picture = next(shared_dataset.rglob(Path(sample.image).name))
    table = program("predict", patches, "-i", picture, "-o", tmp_path / "out").last_line
    stored = next((Path(patches) / "evaluations").rglob("per_image.csv"))
    (judged,) = [row for row in read(stored) if row["id"] == sample.id]
    (predicted,) = read(table)
    assert float(predicted["score"]) == pytest.approx(float(judged["score"]), abs=1e-4)
    line = refused("export", patches, "--checkpoint", tmp_path / "published.pth")
    assert "is of patch-forensics, which the published format does not have; export it with" in line


@pytest.mark.slow
def test_a_grid_of_them(program, pixels, tmp_path):
    def grid(decoders, *options):
        outcome = program(
            "train", pixels, "--layers", "all", "--decoders", decoders, "--widths", "4,4,4,4",
            "--epochs", 1, "--batch-size", 8, *options, "-o", tmp_path / "runs",
        )  # fmt: skip
        rows = read(outcome.last_line)
        assert {row["state"] for row in rows} == {"finished"}
        return [row["decoder_type"] for row in rows]

    # What decoders of features learn from pixels alone is a baseline, too.
    every = ["patch-forensics", "linear", "probe", "conv-4"]
    assert grid(",".join(every)) == every
    assert grid("conv-4,patch-forensics", "--no-cache") == ["conv-4", "patch-forensics"]


def test_what_cannot_be_is_refused_in_a_line(refused, pixels, tiny_store, shared_dataset, tmp_path):
    runs = ("-o", tmp_path / "runs")
    patches = ("--decoder-type", "patch-forensics")
    line = refused("train", tiny_store.location, "--feature-layer", "layer1", *patches, *runs)
    assert "expected pixels, 3 channels on at least 32x32: extract with --arch pixels:299" in line
    train = ("train", pixels, "--feature-layer", "pixels", *runs)
    line = refused(*train, "--decoder-type", "conv-4", "--initialization", "imagenet")
    assert "--initialization imagenet for conv-4, of which there are no such weights" in line
    line = refused(
        *train, *patches, "--initialization", "imagenet", "--initial-weights", tmp_path / "no.pth"
    )
    assert f"initial weights {tmp_path / 'no.pth'}: no such file" in line
    (tmp_path / "text.pth").write_text("text")
    line = refused(
        *train, *patches, "--initialization", "imagenet",
        "--initial-weights", tmp_path / "text.pth", code=1,
    )  # fmt: skip
    assert "not a weights file, or damaged" in line
    for arch in ("pixels:abc", "pixels:8"):
        line = refused("extract", shared_dataset, "--arch", arch, "--cache", tmp_path / "cache")
        assert f"arch '{arch}'; expected pixels:SIDE with a whole number from 32 to 1024" in line
    line = refused(
        *("extract", shared_dataset, "--arch", "pixels:64", "--weights", "random:0"),
        *("--cache", tmp_path / "cache"),
    )
    assert "which is the image itself and has none; leave --weights out" in line
    assert not (tmp_path / "runs").exists()
