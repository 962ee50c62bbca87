"""Runs of either task judged on telling fakes from real pictures; thresholds come from valid."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError
from declip_pipeline.metrics import detection_intervals
from declip_pipeline.metrics.detection import detection_metrics
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps import detection_evaluation
from declip_pipeline.sweeps.detection_evaluation import evaluate_detection, plan_detections
from declip_pipeline.training.localization_run import localization_run
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.training_data import TrainingData

CPU = torch.device("cpu")
QUICK = {"initialization": "pytorch", "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(detection_intervals, "RESAMPLES_OF_A_STATISTIC", 100)


@pytest.fixture(scope="module")
def train(mixed_store, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")

    def trained(**changes):
        return localization_run(
            TrainingData([mixed_store], device=CPU),
            runs,
            layer="layer1",
            recipe=Recipe("linear", **(QUICK | changes)),
        )

    return trained


def table(evaluation):
    with (evaluation.folder / "detection.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("pooling", [None, "mean", "max", "learned"])
def test_scores_are_those_of_the_maps(train, mixed_store, pooling):
    run = train(pooling=pooling, epochs=2)
    evaluation = evaluate_detection(run, mixed_store, split="test", device=CPU, batch_size=5)
    assert evaluation.pooling == pooling
    rows = table(evaluation)
    names = ["mean_sigmoid", "mean_logit"] + [pooling] * (pooling in ("max", "learned"))
    assert list(rows[0]) == ["id", "split", "generator", "scene", "label", *names]
    decoder, _ = run.best_decoder()
    numbers = {sample.id: row for row, sample in enumerate(mixed_store.samples)}
    assert len(rows) == 16 + 13
    for row in rows:
        number = np.asarray([numbers[row["id"]]])
        assert int(row["label"]) == mixed_store.labels[number]
        with torch.inference_mode():
            logits = decoder(mixed_store.read_layer("layer1", number).decoded())
            assert float(row["mean_sigmoid"]) == pytest.approx(logits.sigmoid().mean().item())
            assert float(row["mean_logit"]) == pytest.approx(logits.mean().sigmoid().item())
            if pooling in ("max", "learned"):
                pooled = decoder.pooling(logits).sigmoid().item()
                assert float(row[pooling]) == pytest.approx(pooled)


@pytest.mark.parametrize("score", ["mean_sigmoid", "mean_logit"])
def test_figures_are_scikit_learns_and_thresholds_are_those_of_valid(train, mixed_store, score):
    # Hardly trained: it is wrong about some.
    run = train(pooling="mean", epochs=1, learning_rate=1e-6, seed=3)
    evaluation = evaluate_detection(run, mixed_store, split="test", device=CPU)
    rows = table(evaluation)

    def of(split, generator=None):
        chosen = [
            row
            for row in rows
            if row["split"] == split and row["generator"] in ("real", generator or row["generator"])
        ]
        scores = np.asarray([float(row[score]) for row in chosen])
        return scores, np.asarray([int(row["label"]) for row in chosen])

    content = json.loads((evaluation.folder / "detection.json").read_text())
    assert (content["split"], content["thresholds_from"]) == ("test", "valid")
    assert content["pooling"] == "mean"
    assert content["by_generator"].keys() == {"lama", "ldm"}
    written = content["by_generator"]["ldm"][score]
    assert written == evaluation.by_generator["ldm"][score] | {
        name: list(written[name]) for name in ("ap_interval", "auc_interval")
    }
    for generator in (None, "lama", "ldm"):
        scores, labels = of("test", generator)
        known = evaluation.by_generator[generator] if generator else evaluation.overall
        figures = known[score]
        chosen_on = map(torch.from_numpy, of("valid", generator))
        best = detection_metrics(*chosen_on)["threshold_between"]
        assert figures["threshold"] == best
        assert (figures["fake"], figures["real"]) == (4 if generator else 8, 5)
        assert figures["ap"] == pytest.approx(average_precision_score(labels, scores))
        assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores))
        assert 0 < figures["auc"] < 1
        for name, threshold in (("accuracy_at_0_5", 0.5), ("accuracy_at_threshold", best)):
            assert figures[name] == pytest.approx(((scores >= threshold) == labels).mean() * 100)
        # What chooses on the test itself is never worse, and says so by its name.
        assert figures["accuracy_at_best_of_test"] >= figures["accuracy_at_threshold"]
        for name in ("ap", "auc"):
            low, high = figures[f"{name}_interval"]
            assert low <= figures[name] <= high and low < high


def test_localization_runs_detect_too_and_nothing_is_overwritten(train, mixed_store):
    run = train(epochs=30)
    evaluation = evaluate_detection(run, mixed_store, split="test", device=CPU)
    # Of 13 pictures 8 are fake: chance is 0.62.
    assert evaluation.overall["mean_sigmoid"]["ap"] > 0.8
    part = evaluate_detection(run, mixed_store, split="test", generators=["ldm"], device=CPU)
    assert part.folder != evaluation.folder
    assert part.folder.name.startswith("detection-mixed-test-ldm-")
    assert list(part.by_generator) == ["ldm"]
    assert {row["generator"] for row in table(part)} == {"ldm", "real"}


def test_scores_of_the_same_weights_and_store_are_taken(train, mixed_store, monkeypatch):
    run = train(pooling="max", epochs=2)
    options = {"split": "test", "device": CPU}
    once = evaluate_detection(run, mixed_store, **options)
    content = (once.folder / "detection.json").read_bytes()
    judging = detection_evaluation.score_rows
    judged = []
    monkeypatch.setattr(
        *(detection_evaluation, "score_rows"),
        lambda *places, **options: judged.append(0) or judging(*places, **options),
    )
    again = evaluate_detection(run, mixed_store, reuse=True, **options)
    assert again == once and not judged
    assert (once.folder / "detection.json").read_bytes() == content
    evaluate_detection(run, mixed_store, **options)
    assert len(judged) == 1
    evaluate_detection(train(pooling="max", epochs=3), mixed_store, reuse=True, **options)
    evaluate_detection(run, mixed_store, reuse=True, generators=["ldm"], **options)
    assert len(judged) == 3
    table = once.folder / "detection.csv"
    table.write_text(table.read_text().replace("real", "ldm", 1))
    assert evaluate_detection(run, mixed_store, reuse=True, **options) == once
    assert len(judged) == 4


def test_a_generator_that_valid_lacks_takes_the_threshold_of_all(train, mixed_store):
    store = Store(mixed_store.location)
    names = [
        "ldm" if (sample.split, sample.generator) == ("valid", "lama") else sample.generator
        for sample in store.samples
    ]
    store.samples = store.samples.replace(generator=names)
    evaluation = evaluate_detection(train(epochs=2), store, split="test", device=CPU)
    figures = evaluation.by_generator["lama"]["mean_logit"]
    assert figures["threshold"] == evaluation.overall["mean_logit"]["threshold"]
    assert (figures["fake"], figures["real"]) == (4, 5)


def test_what_cannot_be_judged_is_refused_before_the_first(train, mixed_store, tiny_store):
    run = train(pooling="mean", epochs=2)

    def refused(store, message, split="test", **options):
        with pytest.raises(InputError, match=message):
            plan_detections([run], [mixed_store, store], split=split, **options)

    def changed(change):
        store = Store(mixed_store.location)
        rows = (replace(sample, **change(sample)) for sample in store.samples)
        store.samples = Samples.from_rows(rows)
        return store

    assert len(plan_detections([run], [mixed_store], split="test")) == 1
    refused(mixed_store, "thresholds are chosen on valid, .*; expected another split", "valid")
    refused(mixed_store, "unknown generator in the stores 'dall-e'", generators=["dall-e"])
    without = changed(lambda sample: {"split": "test"} if sample.split == "valid" else {})
    without.location = "other"
    refused(without, "other has the splits test, train; thresholds of detection are chosen on val")
    for split in ("test", "valid"):
        one = changed(
            lambda sample, split=split: (
                {"split": "train"} if (sample.split, sample.label) == (split, 0) else {}
            )
        )
        one.location = "other"
        fakes = {"test": 8, "valid": 10}[split]
        refused(one, f"split '{split}' of other has {fakes} fake and 0 real pictures; detection is")
