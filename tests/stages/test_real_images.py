"""`train --with-real`, the false alarms that `evaluate` says, and `predict --threshold valid`."""

import json
from pathlib import Path

import pytest

LINEAR = ("--feature-layer", "layer1", "--decoder-type", "linear")
QUICK = ("--epochs", 3, "--batch-size", 4, "--lr", "1e-2")
NEVER = "never saw a real image in training"


@pytest.fixture(scope="module")
def picture(mixed_store):
    sample = next(iter(mixed_store.samples))
    return Path(mixed_store.provenance["root"]) / sample.image


@pytest.mark.slow
def test_from_training_with_real_images_to_prediction(program, mixed_store, picture, tmp_path):
    command = ("train", mixed_store.location, *LINEAR, *QUICK, "-o", tmp_path / "runs")
    trained = program(*command, "--with-real", 0.2)
    run = Path(trained.last_line)
    assert "images: train 16 fake and 10 real, valid 10 fake and 6 real" in trained.err
    summary = json.loads((run / "summary.json").read_text())
    threshold = summary["valid_threshold"]
    assert (
        f"threshold best on valid: {threshold:g}, with a mean IoU of "
        f"{summary['valid_iou_at_threshold']:.2f}"
    ) in trained.err
    outcome = program("evaluate", run, "--on", mixed_store.location)
    (file,) = run.glob("evaluations/*/false_alarms.json")
    figures = json.loads(file.read_text())
    lines = [line for line in outcome.out.splitlines() if "false alarms" in line]
    min_region = summary["valid_min_region"]
    assert (
        f"minimum size of regions best on valid: {min_region:.2%} of the image, with a mean IoU of "
        f"{summary['valid_iou_at_min_region']:.2f}"
    ) in trained.err
    places = (
        ("at 0.5", ""),
        ("at valid's threshold", "_valid_threshold"),
        ("without small regions", "_min_region"),
    )
    for line, (at, behind) in zip(lines, places, strict=True):
        pixels = f"false_alarm_pixels{behind}"
        low, high = (figures[f"{pixels}_{end}"] for end in ("low", "high"))
        assert line.startswith(
            f"  false alarms on real images {at}: {figures[pixels]:.2f}% "
            f"[{low:.2f}, {high:.2f}] of pixels, {figures[f'false_alarm_images{behind}']:.2f}% "
        )
        assert line.endswith("with more than 1% of their pixels (5 images)")
    assert "IoU at valid's threshold " in outcome.out
    outcome = program("predict", run, "-i", picture, "-o", tmp_path / "out", "--threshold", "valid")
    assert NEVER not in outcome.err
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    header = json.loads(lines[0])
    assert header["made_with"]["threshold"] == threshold
    assert f"masks are above {threshold:.4g}, the run's threshold from valid" in outcome.err
    out = ("-o", tmp_path / "out2", "--min-region", "valid")
    program("predict", run, "-i", picture, *out)
    lines = (tmp_path / "out2" / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["made_with"].get("min_region", 0.0) == min_region
    plain = program(*command).last_line
    outcome = program("predict", plain, "-i", picture, "-o", tmp_path / "plain")
    assert f"{plain} {NEVER}" in outcome.err


@pytest.mark.slow
def test_a_threshold_that_is_none_is_refused(refused, program, mixed_store, picture, tmp_path):
    run = program(
        "train", mixed_store.location, *LINEAR, *QUICK, "--detection", "-o", tmp_path / "runs"
    ).last_line
    out = ("-i", picture, "-o", tmp_path / "out")
    line = refused("predict", run, *out, "--threshold", "valid")
    assert "keep none; give --threshold as a number" in line
    for text in ("best", "1.5", "nan"):
        line = refused("predict", run, *out, "--threshold", text)
        assert line == f"--threshold {text!r}; expected a number from 0 to 1, or valid"
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused(refused, tiny_store, mixed_store, tmp_path):
    runs = ("-o", tmp_path / "runs")
    line = refused("train", tiny_store.location, *LINEAR, *QUICK, "--with-real", 0.2, *runs)
    assert "no real image in split 'train'" in line and "--with-real learns from some" in line
    line = refused("train", mixed_store.location, *LINEAR, *QUICK, "--with-real", 1, *runs)
    assert line == "--with-real is 1.0; expected less than 1"
    one_cycle = ("--recipe", "paper", "--schedule", "one-cycle")
    line = refused("train", mixed_store.location, *LINEAR, *one_cycle, *runs)
    assert line == (
        "--schedule one-cycle without a number of epochs, over which it goes; give --epochs"
    )
    assert not (tmp_path / "runs").exists()
