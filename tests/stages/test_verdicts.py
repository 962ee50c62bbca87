"""Metrics that `evaluate` prints, and verdicts: kept by `train`, given by `predict`, rated."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS, protocol_lines

LINEAR = ("--feature-layer", "layer1", "--decoder-type", "linear")
QUICK = ("--epochs", 3, "--batch-size", 4, "--lr", "1e-2")


@pytest.fixture(scope="module")
def run(mixed_store, tmp_path_factory):
    import torch

    from declip_pipeline.training.data import TrainingData
    from declip_pipeline.training.recipe import Recipe
    from declip_pipeline.training.runs import train_run

    return train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=3, batch_size=4, learning_rate=1e-2),
    )


@pytest.fixture(scope="module")
def pictures(mixed_store, tmp_path_factory):
    """Labels of the test split's images by their paths, copied into one folder."""
    folder = tmp_path_factory.mktemp("photos")
    found = {}
    for number, one in enumerate(mixed_store.samples):
        if one.split == "test":
            path = folder / f"{number}.png"
            shutil.copy(Path(mixed_store.provenance["root"]) / one.image, path)
            found[str(path)] = one.label
    return found


def images_of(pictures):
    return ("-i", Path(next(iter(pictures))).parent)


@pytest.mark.slow
def test_a_training_says_which_threshold_it_keeps(program, mixed_store, tiny_store, tmp_path):
    command = (*LINEAR, *QUICK, "-o", tmp_path / "runs")
    outcome = program("train", mixed_store.location, *command)
    summary = json.loads((Path(outcome.last_line) / "summary.json").read_text())
    assert (
        f"threshold of image scores best on valid: {summary['valid_score_threshold']:.6g}, with a "
        f"balanced accuracy of {summary['valid_balanced_accuracy']:.2f}"
    ) in outcome.err
    outcome = program("train", tiny_store.location, *command)
    assert "no threshold of image scores: the split valid has no real image" in outcome.err


def test_predictions_have_a_verdict_and_what_it_would_miss(program, run, pictures, tmp_path):
    outcome = program("predict", run.path, *images_of(pictures), "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    with Path(outcome.last_line).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        is_forged = float(row["score"]) >= run.score_threshold
        assert row["verdict"] == ("forged" if is_forged else "not found")
        assert re.fullmatch(r"\d+x\d+", row["smallest_region"])
    forged = sum(row["verdict"] == "forged" for row in rows)
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["image", "score", "verdict", "smallest", "region"]
    for line, row in zip(lines[1:], rows, strict=False):
        assert line.split() == [
            *(row["image"], f"{float(row['score']):.6g}", *row["verdict"].split()),
            row["smallest_region"],
        ]
    assert lines[len(rows) + 1].startswith(
        f"{forged} forged, {len(rows) - forged} not found, of {len(rows)} images; forged is a "
        f"score of at least {run.score_threshold:.6g}, best on the run's split valid"
    )
    assert "may be missed: not found does not prove an image authentic" in lines[-2]


def test_rows_of_an_earlier_version_get_a_verdict(program, run, pictures, tmp_path):
    command = ("predict", run.path, *images_of(pictures), "-o", tmp_path / "out")
    before = Path(program(*command).last_line).read_bytes()
    ledger = tmp_path / "out" / "predictions.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line.get("row", {}).pop("verdict", None)
        line.get("row", {}).pop("smallest_region", None)
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = program(*command)
    assert "all images are predicted already" in again.err
    assert Path(again.last_line).read_bytes() == before


def test_without_a_threshold_there_is_no_verdict(program, run, tiny_run, pictures, tmp_path):
    images = images_of(pictures)
    outcome = program("predict", tiny_run, *images, "-o", tmp_path / "one")
    assert "no verdicts: the run keeps no threshold of image scores: its split valid" in outcome.err
    with Path(outcome.last_line).open(newline="") as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {""}
    assert " forged" not in outcome.out.splitlines()[-3]
    outcome = program("predict", run.path, tiny_run, *images, "-o", tmp_path / "two")
    assert "no verdicts: the mean of several runs has no threshold of image scores" in outcome.err


def test_scores_of_many_images_are_counted_not_listed(
    program, run, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr("stages.predict.SHOWN_IMAGES", 2)
    outcome = program("predict", run.path, *images_of(pictures), "-o", tmp_path / "out")
    first, *_ = outcome.out.splitlines()
    assert first.endswith("is right)") and f"of {len(pictures)} images; forged is" in first


def test_evaluate_rates_the_verdicts_that_predict_gives(
    program, run, mixed_store, pictures, tmp_path
):
    outcome = program("evaluate", run.path, "--on", mixed_store.location, "-o", tmp_path / "eval")
    assert outcome.code == 0, outcome.err
    table = program("predict", run.path, *images_of(pictures), "-o", tmp_path / "out").last_line
    with Path(table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = []
    for label in (1, 0):
        verdicts = [row["verdict"] for row in rows if pictures[row["image"]] == label]
        rates.append(100 * verdicts.count("forged") / len(verdicts))
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("  verdict forged")]
    found = re.search(
        r"at least (\S+), best on valid in training: ([\d.]+)% \[[\d., ]+\] of 8 fakes are called "
        r"forged \(true positive rate\), ([\d.]+)% \[[\d., ]+\] of 5 real images \(false positive "
        r"rate\)$",
        line,
    )
    assert found is not None, line
    assert float(found[1]) == pytest.approx(run.score_threshold, rel=1e-5)
    assert [float(found[2]), float(found[3])] == pytest.approx(rates, abs=0.01)
    (file,) = (tmp_path / "eval").rglob("false_alarms.json")
    saved = json.loads(file.read_text())
    assert saved["verdict"]["false_positive_rate"] == pytest.approx(rates[1])
    assert list(saved["image_scores"]) == ["score", "score_max", "score_top"]


def test_metrics_are_chosen_and_the_caption_says_what_they_leave_out(
    program, refused, run, mixed_store, tmp_path
):
    command = ("evaluate", run.path, "--on", mixed_store.location, "-o", tmp_path / "eval")
    outcome = program(*command, "--metrics", "auc,f1_fixed,iou_pooled")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    caption = protocol_lines(["auc", "f1_fixed", "iou_pooled"])
    assert lines[: len(caption) + 1] == ["test split", *caption]
    assert any("own size" in line for line in caption)
    number = r"[\d.]+ \[[\d.]+, [\d.]+\]"
    (line,) = [line for line in lines if line.startswith("  overall: ")]
    assert re.fullmatch(
        rf"  overall: AUC {number}, F1 \(TruFor\) {number}, IoU pooled {number} \(8 images\)", line
    ), line
    # The matrix is of the first.
    place = lines.index("AUC of pixels (percent), test split")
    assert lines[place + 1 : place + 4] == protocol_lines(["auc"])
    everything = program(*command, "--metrics", "all").out
    assert all(f"{one.title} " in everything for one in LOCALIZATION_METRICS.values())
    line = refused(*command, "--metrics", "iou,f1_poled")
    known = ", ".join(LOCALIZATION_METRICS)
    assert line == f"unknown metric 'f1_poled'; did you mean 'f1_pooled'? known: {known}"
    line = refused(*command, "--metrics", "iou", "--detection")
    assert line == "--metrics are those of maps, --detection evaluates whole images; leave one out"
    line = refused(*command, "--metrics", "iou,f1", "--views", "all")
    assert line == "--views shows one metric by view, found iou, f1; name one with --metrics"


def test_the_top_share_is_named_and_another_is_evaluated_again(
    program, refused, run, mixed_store, tmp_path
):
    command = ("evaluate", run.path, "--on", mixed_store.location, "-o", tmp_path / "eval")
    outcome = program(*command, "--top-share", 0.05)
    assert "mean of the highest 5% of pixels: AUC " in outcome.out
    (file,) = (tmp_path / "eval").rglob("per_image.csv")
    with file.open(newline="") as text:
        for row in csv.DictReader(text):
            assert float(row["score"]) <= float(row["score_top"]) <= float(row["score_max"])
    assert json.loads((file.parent / "summary.json").read_text())["top_share"] == 0.05
    line = refused(*command, "--top-share", 0.05, "--detection")
    assert line == ("--top-share is of scores that are printed without --detection; leave one out")
    line = refused(*command, "--top-share", 0)
    assert line == "--top-share is 0.0; expected a share above 0 and up to 1"
