"""`train --detection`, `evaluate --detection` and `predict` with what came of them."""

import csv
import json
import re
from pathlib import Path

import pytest

QUICK = ("--epochs", 10, "--batch-size", 4, "--initialization", "pytorch", "--lr", "1e-2")
LINEAR = ("--feature-layer", "layer2", "--decoder-type", "linear")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("declip_pipeline.metrics.detection_intervals.RESAMPLES_OF_A_STATISTIC", 100)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image
    from support.made_dataset import forged_picture

    path = tmp_path_factory.mktemp("images") / "fake.png"
    Image.fromarray(forged_picture(77, 60, 44)[0]).save(path)
    return path


@pytest.mark.slow
def test_from_training_to_prediction(program, mixed_store, picture, tmp_path):
    command = ("train", mixed_store.location, *LINEAR, *QUICK, "-o", tmp_path / "runs")
    outcome = program(*command, "--detection", "--pooling", "learned")
    run = Path(outcome.last_line)
    assert "train 16 fake and 10 real, valid 10 fake and 6 real" in outcome.err
    assert ", validation AP " in outcome.err and "best validation AP " in outcome.err
    assert "finished already" in program(*command, "--detection", "--pooling", "learned").err
    masks = Path(program(*command).last_line)
    on = ("--on", mixed_store.location)
    outcome = program("evaluate", run, masks, *on, "--detection")
    lines = [line.strip() for line in outcome.out.splitlines()]
    assert (lines.count("mean_sigmoid:"), lines.count("mean_logit:")) == (2, 2)
    assert lines.count("learned:") == 1
    assert sum(line.startswith("all: AP ") for line in lines) == 5
    (folder,) = run.glob("evaluations/detection-*")
    figures = json.loads((folder / "detection.json").read_text())["overall"]["learned"]
    assert figures["ap"] > 0.9
    low, high = figures["ap_interval"]
    assert (
        f"all: AP {100 * figures['ap']:.2f} [{100 * low:.2f}, {100 * high:.2f}], "
        f"AUC {100 * figures['auc']:.2f} "
    ) in outcome.out
    # Both are compared by their scores of whole images, on the same ones.
    outcome = program("compare", run, masks, *on, "--detection")
    assert outcome.code == 0, outcome.err
    cells = [line.split() for line in outcome.out.splitlines()[:-1]]
    assert [(line[0], line[1]) for line in cells[-6:]] == [("overall", "13")] * 6
    assert cells[-6][2] == "AP" and cells[-5][2] == "AUC"
    # Its maps can be judged, and it is said what they are.
    outcome = program("evaluate", run, masks, *on)
    assert outcome.err.count("labels of images: its maps are weakly supervised") == 1
    assert "ldm: IoU " in outcome.out
    # A prediction's score is the pooled one, its map what it was.
    outcome = program("predict", run, "-i", picture, "-o", tmp_path / "out")
    weakly = "was trained for detection, on labels of images: its maps are weakly supervised"
    assert f"{run} {weakly}" in outcome.err
    of_masks = program("predict", masks, "-i", picture, "-o", tmp_path / "of masks")
    assert weakly not in of_masks.err
    table = Path(outcome.last_line)
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    import numpy as np

    stored = np.load(table.parent / row["map"])
    assert float(row["score"]) == pytest.approx(float(stored["score"]))
    assert abs(float(row["score"]) - stored["map"].mean()) > 1e-3


@pytest.mark.slow
def test_seeds_are_taken_together_and_means_are_over_cells(program, mixed_store, tmp_path):
    command = ("train", mixed_store.location, *LINEAR, *QUICK, "-o", tmp_path / "runs")
    learned = ("--train-on", "ldm", "--detection", "--seeds", "0,1")
    table = Path(program(*command, *learned).last_line)
    with table.open(newline="") as file:
        runs = [row["run"] for row in csv.DictReader(file)]
    on = ("--on", mixed_store.location, "--detection")
    outcome = program("evaluate", *runs, *on)
    assert outcome.code == 0, outcome.err
    text = outcome.out[outcome.out.index("linear_layer2_ldm on mixed, test, over 2 seeds (0, 1)") :]
    lines = text.splitlines()
    figure = r"[\d.]+ ± [\d.]+ \[[\d.]+, [\d.]+\]"
    accuracy = r"[\d.]+ ± [\d.]+"
    assert re.fullmatch(
        f"    lama: AP {figure}, AUC {figure}, accuracy {accuracy} and F1 {accuracy} at 0.5, "
        f"accuracy {accuracy} and F1 {accuracy} at "
        r"thresholds from valid \(4 fake, 5 real\)",
        lines[2],
    ), lines[2]
    place = lines.index(
        "means over cells, test split, linear on layer2 of CLIP:from-file, detection by mean"
    )
    mean = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    for line, score in zip(lines[place + 2 :], ("mean_sigmoid", "mean_logit"), strict=True):
        both = rf"AP {mean}, AUC {mean} \(1 cell\)"
        assert re.fullmatch(f"  {score}: ID {both}; OOD {both}", line), line
    assert " seeds (" not in program("evaluate", runs[0], *on).out


@pytest.mark.slow
def test_a_prediction_scores_as_an_evaluation_does(program, mixed_store, tmp_path):
    run = program(
        "train", mixed_store.location, *LINEAR, *QUICK, "-o", tmp_path / "runs", "--detection"
    ).last_line
    program("evaluate", run, "--on", mixed_store.location, "--detection")
    (path,) = Path(run).glob("evaluations/detection-*/detection.csv")
    with path.open(newline="") as file:
        stored = {row["id"]: float(row["mean_logit"]) for row in csv.DictReader(file)}
    root = Path(mixed_store.provenance["root"])
    pictures = {
        str(root / sample.image): stored[sample.id]
        for sample in mixed_store.samples
        if sample.split == "test" and sample.generator in ("ldm", "real")
    }
    options = [part for path in pictures for part in ("-i", path)]
    table = program("predict", run, *options, "-o", tmp_path / "out").last_line
    with Path(table).open(newline="") as file:
        found = {row["image"]: float(row["score"]) for row in csv.DictReader(file)}
    assert found == pytest.approx(pictures, abs=1e-4)
    assert len(found) == 9


def test_a_grid_of_detection_says_ap(program, mixed_store, tmp_path):
    config = tmp_path / "grid.yaml"
    config.write_text(
        "layers: [1, 2]\ndecoders: linear\nepochs: 2\nbatch_size: 4\ndetection: true\n"
        "pooling: max\nseeds: [0, 1]\n"
    )
    outcome = program("train", mixed_store.location, "--config", config, "-o", tmp_path / "runs")
    assert outcome.err.count("best validation AP ") == 4
    with Path(outcome.last_line).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        summary = json.loads((Path(row["run"]) / "summary.json").read_text())
        assert float(row["best_valid_ap"]) == summary["best_valid_ap"]
        assert row["best_valid_iou"] == ""


def test_what_does_not_fit_is_refused(refused, tiny_store, mixed_store, tmp_path):
    runs = ("-o", tmp_path / "runs")
    line = refused("train", mixed_store.location, *LINEAR, "--pooling", "max", *runs)
    assert line == (
        "--pooling max is for detection, which --detection asks for; leave one out or add the other"
    )
    line = refused("train", tiny_store.location, *LINEAR, "--detection", *QUICK, *runs)
    assert "no real image in split 'train'" in line
    probe = ("--feature-layer", "layer1", "--decoder-type", "probe")
    line = refused("train", mixed_store.location, *probe, "--detection", *QUICK, *runs)
    assert "detection learns from labels of images, take another decoder" in line
    assert not (tmp_path / "runs").exists()


def test_a_store_without_real_pictures_cannot_judge(refused, tiny_run, tiny_store):
    line = refused("evaluate", tiny_run, "--on", tiny_store.location, "--detection")
    assert "has 4 fake and 0 real images; detection is evaluated on both" in line
    line = refused(
        "evaluate", tiny_run, "--on", tiny_store.location, "--detection", "--split", "valid"
    )
    assert "thresholds are chosen on valid" in line
    line = refused(
        "evaluate", tiny_run, "--on", tiny_store.location, "--detection", "--views", "all"
    )
    assert line == "--views evaluates maps, --detection whole images; leave one out"


def test_a_learned_pooling_has_no_place_in_a_published_checkpoint(
    program, refused, mixed_store, tmp_path
):
    run = program(
        "train", mixed_store.location, *LINEAR, "--epochs", 1, "--batch-size", 4, "--detection",
        "--pooling", "learned", "-o", tmp_path / "runs",
    ).last_line  # fmt: skip
    line = refused("export", run, "--checkpoint", tmp_path / "decoder.pth")
    assert "learned how to pool its maps into scores" in line
    assert not (tmp_path / "decoder.pth").exists()
