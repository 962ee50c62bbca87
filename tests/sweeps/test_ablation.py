"""Scores of layers: means over what was learned and what was not, spreads over seeds."""

import csv
import math

import numpy as np
import pytest
from made_evaluation import config_of, localized

from declip_pipeline.metrics.bootstrap import mean_interval
from declip_pipeline.sweeps.ablation import layer_scores, write_scores
from declip_pipeline.sweeps.grid import CellResult


def row(layer, seed, learned, state="finished", **ious):
    run = f"{layer}-{seed}-{learned}" if state == "finished" else None
    config = config_of(learned, seed, layer=layer)
    result = CellResult(layer, "linear", seed, 1e-3, learned, state, run=run)
    return result, localized(learned, seed, config=config, **ious)


def scores_of(pairs):
    return layer_scores(
        [result for result, _ in pairs], {str(r.run): found for r, found in pairs if r.run}
    )


def test_a_score_has_the_interval_of_its_cells():
    learned, others = scores_of([row("layer0", 0, "ldm", ldm=[40.0, 60.0, 80.0])])
    expected = mean_interval(np.array([40.0, 60.0, 80.0]))
    assert learned.estimate.interval == expected == (40, 80)
    assert others.estimate.cells == 0 and np.isnan(others.estimate.interval).all()


def test_scores_are_means_by_domain_and_spreads_by_seed(tmp_path):
    scores = scores_of(
        [
            row("layer0", 0, "ldm", ldm=[60.0], lama=[10.0]),
            row("layer0", 0, "lama", ldm=[30.0], lama=[40.0]),
            row("layer0", 1, "ldm", ldm=[70.0], lama=[20.0]),
            row("layer0", 1, "lama", ldm=[40.0], lama=[50.0]),
            row("layer1", 0, "ldm", ldm=[80.0]),
            row("layer1", 1, "ldm", state="failed"),
        ]
    )
    assert [(score.layer, score.domain, score.estimate.by_seed) for score in scores] == [
        ("layer0", "in domain", (50.0, 60.0)),
        ("layer0", "out of domain", (20.0, 30.0)),
        ("layer1", "in domain", (80.0,)),
        ("layer1", "out of domain", ()),
    ]
    first = scores[0].estimate
    assert first.value == 55 and first.spread == pytest.approx(math.sqrt(50))
    assert math.isnan(scores[2].estimate.spread) and math.isnan(scores[3].estimate.value)
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
