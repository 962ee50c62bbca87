"""Runs of either task evaluated on telling fakes from real images; thresholds come from valid."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation import ensemble as ensemble_module
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.metrics import detection_intervals
from declip_pipeline.metrics.detection import detection_metrics
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

CPU = torch.device("cpu")
QUICK = {"initialization": "pytorch", "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(detection_intervals, "RESAMPLES_OF_A_STATISTIC", 100)


@pytest.fixture(scope="module")
def train(mixed_store, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")

    def trained(**changes):
        return train_run(
            TrainingData([mixed_store], device=CPU),
            runs,
            layer="layer1",
            recipe=Recipe("linear", **(QUICK | changes)),
        )

    return trained


def saved(run, store, **options):
    """An evaluation, and the folder that it was saved in."""
    evaluation = evaluate(run, store, task="detection", device=CPU, **options)
    (folder,) = evaluation.save(run.path / EVALUATIONS)
    return evaluation, folder


def table(folder):
    with (folder / "detection.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [None, "mean", "max", "learned"])
def test_scores_are_those_of_the_maps(train, mixed_store, pooling):
    run = train(pooling=pooling, epochs=2)
    evaluation, folder = saved(run, mixed_store, batch_size=5)
    rows = table(folder)
    names = ["mean_sigmoid", "mean_logit"] + [pooling] * (pooling in ("max", "learned"))
    assert evaluation.scores == tuple(names)
    assert list(rows[0]) == ["id", "split", "generator", "scene", "label", *names]
    decoder, _ = run.best_decoder()
    assert len(rows) == 16 + 13
    for row in rows:
        number = mixed_store.samples.find([row["id"]])
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
    evaluation, folder = saved(run, mixed_store)
    rows = table(folder)

    def of(split, generator=None):
        chosen = [
            row
            for row in rows
            if row["split"] == split and row["generator"] in ("real", generator or row["generator"])
        ]
        scores = np.asarray([float(row[score]) for row in chosen])
        return scores, np.asarray([int(row["label"]) for row in chosen])

    content = json.loads((folder / "detection.json").read_text())
    assert (content["split"], content["thresholds_from"]) == ("test", "valid")
    assert content["pooling"] == "mean"
    assert content["by_generator"].keys() == {"lama", "ldm"}
    written = content["by_generator"]["ldm"][score]
    assert written == evaluation.figures("ldm", score) | {
        name: list(written[name]) for name in ("ap_interval", "auc_interval")
    }
    for generator in (None, "lama", "ldm"):
        scores, labels = of("test", generator)
        figures = evaluation.figures(generator, score)
        assert evaluation.mean("ap", generator=generator, score=score) == figures["ap"]
        assert (
            evaluation.interval("auc", generator=generator, score=score)
            == (figures["auc_interval"])
        )
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


@pytest.mark.slow
def test_localization_runs_detect_too_and_nothing_is_overwritten(train, mixed_store):
    run = train(epochs=30)
    evaluation, folder = saved(run, mixed_store)
    # Of 13 images 8 are fake: chance is 0.62.
    assert evaluation.mean("ap") > 0.8
    part, other = saved(run, mixed_store, generators=["ldm"])
    assert other != folder
    assert other.name.startswith("detection-mixed-test-ldm-")
    assert part.generators == ["ldm"]
    assert {row["generator"] for row in table(other)} == {"ldm", "real"}


@pytest.mark.slow
def test_scores_of_the_same_weights_and_store_are_taken(train, mixed_store, monkeypatch):
    run = train(pooling="max", epochs=2)
    once, folder = saved(run, mixed_store)
    content = (folder / "detection.json").read_bytes()
    detect = ensemble_module.detect
    calls = []
    monkeypatch.setattr(
        *(ensemble_module, "detect"),
        lambda *places, **options: calls.append(0) or detect(*places, **options),
    )
    again, _ = saved(run, mixed_store, reuse=True)
    assert again.to_arrow().equals(once.to_arrow()) and not calls
    assert again.calibration.equals(once.calibration)
    assert (folder / "detection.json").read_bytes() == content
    saved(run, mixed_store)
    assert len(calls) == 1
    saved(train(pooling="max", epochs=3), mixed_store, reuse=True)
    saved(run, mixed_store, reuse=True, generators=["ldm"])
    assert len(calls) == 3
    file = folder / "detection.csv"
    file.write_text(file.read_text().replace("real", "ldm", 1))
    again, _ = saved(run, mixed_store, reuse=True)
    assert again.to_arrow().equals(once.to_arrow())
    assert len(calls) == 4


def test_a_generator_that_valid_lacks_takes_the_threshold_of_all(train, mixed_store):
    evaluation, _ = saved(train(epochs=2), mixed_store)
    names = np.array(evaluation.calibration.column("generator").to_pylist())
    without = replace(evaluation, calibration=evaluation.calibration.filter(names != "lama"))
    figures = without.figures("lama", "mean_logit")
    assert figures["threshold"] == without.figures(None, "mean_logit")["threshold"]
    assert (figures["fake"], figures["real"]) == (4, 5)


def test_what_cannot_be_evaluated_is_refused_before_the_first(mixed_store, tiny_store):
    def refused(store, message, **options):
        with pytest.raises(InputError, match=message):
            Selection([mixed_store, store], task="detection", **options)

    assert len(Selection([mixed_store], task="detection").parts) == 1
    refused(mixed_store, "thresholds are chosen on valid .*; expected another split", split="valid")
    refused(mixed_store, "unknown generator in the stores 'dall-e'", generators=["dall-e"])
    refused(tiny_store, "has 4 fake and 0 real images; detection is evaluated on both")


@pytest.mark.parametrize("split", ["test", "valid"])
def test_a_split_without_real_images_is_refused(mixed_store, split):
    store = Store(mixed_store.location)
    both = store.fake_and_real_rows
    store.fake_and_real_rows = lambda name, generators: (
        store.fake_rows(name, generators) if name == split else both(name, generators)
    )
    fakes = {"test": 8, "valid": 10}[split]
    with pytest.raises(InputError, match=f"split '{split}' of .* has {fakes} fake and 0 real imag"):
        Selection([store], task="detection")


def test_a_store_without_the_split_of_thresholds_is_refused(mixed_store, monkeypatch):
    monkeypatch.setattr(Store, "splits", ["test", "train"])
    with pytest.raises(InputError, match="has the splits test, train; thresholds of detection are"):
        Selection([mixed_store], task="detection")
