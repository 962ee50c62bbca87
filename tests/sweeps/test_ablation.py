"""Scores of layers: means over what was learned and what was not, spreads over seeds."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.evaluation.localization import ImageResult
from declip_pipeline.metrics.bootstrap import mean_interval
from declip_pipeline.sweeps.ablation import layer_scores, write_scores
from declip_pipeline.sweeps.cross_evaluation import Evaluation
from declip_pipeline.sweeps.grid import CellResult


def row(layer, seed, learned, ious, state="finished"):
    run = f"{layer}-{seed}-{learned}" if state == "finished" else None
    result = CellResult(layer, "linear", seed, 1e-3, learned, state, run=run)
    figures = {name: {"iou": iou} for name, iou in ious.items()}
    return result, Evaluation(Path(str(run)), "store", Path("folder"), (learned,), figures, [])


def test_a_score_has_the_interval_of_its_cells():
    result, evaluation = row("layer0", 0, "ldm", {"ldm": 60.0, "lama": 10.0})
    images = [
        ImageResult(f"p{n}", "test", "ldm", True, iou, 0.5, 0.5, 0.5, 0.5, 0.1)
        for n, iou in enumerate([40.0, 60.0, 80.0])
    ]
    judged = replace(evaluation, results=images)
    learned, others = layer_scores([result], {result.run: judged})
    assert learned.interval == mean_interval(np.array([40.0, 60.0, 80.0])) == (40, 80)
    assert np.isnan(others.interval).all(), "no picture of lama"


def test_scores_are_means_by_domain_and_spreads_by_seed(tmp_path):
    pairs = [
        row("layer0", 0, "ldm", {"ldm": 60.0, "lama": 10.0}),
        row("layer0", 0, "lama", {"ldm": 30.0, "lama": 40.0}),
        row("layer0", 1, "ldm", {"ldm": 70.0, "lama": None}),
        row("layer0", 1, "lama", {"ldm": 40.0, "lama": 50.0}),
        row("layer1", 0, "ldm", {"ldm": 80.0}),
        row("layer1", 1, "ldm", {}, state="failed"),
    ]
    results = [result for result, _ in pairs]
    scores = layer_scores(results, {str(e.run): e for _, e in pairs})
    assert [(score.layer, score.domain, score.ious) for score in scores] == [
        ("layer0", "in domain", (50.0, 60.0)),
        ("layer0", "out of domain", (20.0, 40.0)),
        ("layer1", "in domain", (80.0,)),
        ("layer1", "out of domain", ()),
    ]
    assert scores[0].mean == 55 and scores[0].spread == pytest.approx(math.sqrt(50))
    assert math.isnan(scores[2].spread) and math.isnan(scores[3].mean)
    write_scores(tmp_path / "ablation.csv", scores)
    with (tmp_path / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "layer": "layer0",
        "domain": "in domain",
        "mean_iou": "55.0",
        "standard_deviation": str(math.sqrt(50)),
        "seeds": "2",
        "mean_low": "nan",
        "mean_high": "nan",
    }
    assert [entry["seeds"] for entry in rows] == ["2", "2", "1", "0"]
