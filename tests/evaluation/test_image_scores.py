"""Whole images by scores of their maps, and verdicts at a run's own threshold."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from support.made_evaluation import config_of, detected, localized

from declip_pipeline.evaluation.image_scores import (
    IMAGE_SCORES,
    image_score_figures,
    verdict_figures,
)

FAKES, REAL = [0.9, 0.6, 0.4, 0.7, 0.55], [0.2, 0.6, 0.1, 0.5]


def one(seed=0, threshold=0.41, fakes=FAKES, real=REAL, **changes):
    return localized(
        "ldm",
        seed,
        ldm=[50.0] * len(fakes),
        scores=fakes,
        real_scores=real,
        threshold=threshold,
        **changes,
    )


def test_figures_are_those_of_scikit_learn():
    found = image_score_figures([one()])
    assert list(found) == list(IMAGE_SCORES)
    scores = np.array(FAKES + REAL)
    labels = np.array([1] * len(FAKES) + [0] * len(REAL))
    for figures in found.values():
        assert (figures["fake"], figures["real"]) == (5, 4)
        assert figures["auc"] == pytest.approx(roc_auc_score(labels, scores))
        assert figures["accuracy"] == pytest.approx(100 * accuracy_score(labels, scores > 0.5))
        assert figures["f1"] == pytest.approx(f1_score(labels, scores > 0.5))
        for name in ("auc", "accuracy", "f1"):
            assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]


def test_without_real_images_there_is_nothing():
    assert image_score_figures([one(real=[])]) == {}
    assert verdict_figures([one(real=[])]) is None


def test_a_single_scene_has_no_interval():
    alone = one(fakes=[0.9], real=[0.1])
    same = alone.real.set_column(
        alone.real.column_names.index("scene"), "scene", [alone.values("scene").tolist()]
    )
    alone = type(alone)(
        *(alone.run, alone.config, alone.task, alone.split, alone.stores, alone.table),
        *(alone.calibration, same),
        score_threshold=0.5,
    )
    assert image_score_figures([alone])["score"]["auc_low"] is None
    figures = verdict_figures([alone])
    assert figures["true_positive_rate"] == 100 and figures["true_positive_rate_low"] is None


def test_verdicts_are_rates_at_the_runs_own_threshold():
    figures = verdict_figures([one(threshold=0.5)])
    assert figures["threshold"] == 0.5
    # A score of just the threshold is forged: 0.5 of a real image.
    assert figures["true_positive_rate"] == pytest.approx(80)
    assert figures["false_positive_rate"] == pytest.approx(50)
    assert figures["true_positive_rate_low"] < 80 < figures["true_positive_rate_high"]
    assert verdict_figures([one(threshold=None)]) is None


def test_each_seed_has_its_own_threshold():
    seeds = [one(0, 0.41), one(1, 0.95)]
    figures = verdict_figures(seeds)
    assert "threshold" not in figures
    assert figures["true_positive_rate"] == pytest.approx((80 + 0) / 2)
    assert figures["true_positive_rate_spread"] == pytest.approx(np.std([80, 0], ddof=1))
    assert verdict_figures([seeds[0], one(1, None)]) is None
    scores = image_score_figures(seeds)["score"]
    assert scores["auc_spread"] == 0


def test_detection_is_scored_as_its_training_scored():
    table = detected("ldm", real=[0.2, 0.6], ldm=[0.9, 0.3])
    run = type(table)(
        *(table.run, table.config, table.task, table.split, table.stores),
        *(table.table, table.calibration, table.real),
        score_threshold=0.5,
    )
    figures = verdict_figures([run])
    assert figures["true_positive_rate"] == figures["false_positive_rate"] == 50
    # The maps of a run of detection do not give its score.
    assert verdict_figures([one(config=config_of("ldm", pooling="mean"))]) is None
