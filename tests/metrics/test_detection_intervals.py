"""Intervals of AP and AUC are those of the figures themselves, resampled."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pipeline.metrics import detection_intervals as intervals
from declip_pipeline.metrics.bootstrap import bootstrap_interval


@pytest.fixture
def sample():
    """Scores with ties, and labels."""
    random = np.random.default_rng(1)
    labels = random.random(80) < 0.6
    return (0.2 * labels + 0.8 * random.random(80)).round(1), labels


def test_ranks_give_what_scores_give(sample):
    scores, labels = sample
    ranks = np.unique(-scores, return_inverse=True)[1]
    assert intervals.average_precision_of_ranks(ranks, labels) == pytest.approx(
        average_precision_score(labels, scores)
    )
    assert intervals.area_under_roc_of_ranks(ranks, labels) == pytest.approx(
        roc_auc_score(labels, scores)
    )
    # A resample may lack the highest score, or the lowest.
    some = (ranks > 0) & (ranks < ranks.max())
    assert intervals.average_precision_of_ranks(ranks[some], labels[some]) == pytest.approx(
        average_precision_score(labels[some], scores[some])
    )


def test_they_are_the_bootstraps_of_the_figures(sample, monkeypatch):
    scores, labels = sample
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    found = intervals.detection_intervals(torch.from_numpy(scores), torch.from_numpy(labels))
    for name, figure in (("ap", average_precision_score), ("auc", roc_auc_score)):
        expected = bootstrap_interval(
            lambda scores, labels, figure=figure: figure(labels, scores),
            scores,
            labels,
            strata=labels,
            resamples=50,
        )
        assert found[name] == pytest.approx(expected)
        assert found[name].low < figure(labels, scores) < found[name].high
