"""Intervals of AP and AUC are those of the figures themselves, resampled."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pipeline.metrics import detection_intervals as intervals
from declip_pipeline.metrics.bootstrap import percentile_interval
from declip_pipeline.metrics.resampling import resampled_counts


@pytest.fixture
def sample():
    """Scores with ties, and labels."""
    random = np.random.default_rng(1)
    labels = random.random(80) < 0.6
    return (0.2 * labels + 0.8 * random.random(80)).round(1), labels


def test_counted_pictures_give_what_repeated_ones_give(sample):
    scores, labels = sample
    # A resample may lack the highest score, or the lowest.
    some = (scores < scores.max()) & (scores > scores.min())
    counts = np.stack([np.ones(80), some, np.random.default_rng(2).integers(0, 4, 80)])
    found = intervals.RankedImages(scores, labels).ap_and_auc(counts)
    for row, (ap, auc) in zip(counts.astype(int), found.T, strict=True):
        drawn = np.repeat(labels, row), np.repeat(scores, row)
        assert ap == pytest.approx(average_precision_score(*drawn))
        assert auc == pytest.approx(roc_auc_score(*drawn))
    without = intervals.RankedImages(scores, labels).ap_and_auc(np.stack([labels, ~labels]) * 1.0)
    assert np.isnan(without).all()


def test_they_are_the_bootstraps_of_the_figures(sample, monkeypatch):
    scores, labels = sample
    monkeypatch.setattr(intervals, "RESAMPLES_OF_A_STATISTIC", 50)
    found = intervals.detection_intervals(torch.from_numpy(scores), torch.from_numpy(labels))
    (counts,) = resampled_counts(np.arange(80), strata=labels, resamples=50)
    for name, figure in (("ap", average_precision_score), ("auc", roc_auc_score)):
        expected = [
            figure(np.repeat(labels, row), np.repeat(scores, row)) for row in counts.astype(int)
        ]
        assert found[name] == pytest.approx(percentile_interval(np.array(expected)))
        assert found[name].low < figure(labels, scores) < found[name].high


def test_ap_of_few_images_in_the_wrong_order_lies_below_its_interval():
    """As the documents say: the copies of an image in a resample are counted as one tie."""
    labels = np.arange(12) < 6
    scores = np.linspace(0, 1, 12)
    found = intervals.detection_intervals(torch.from_numpy(scores), torch.from_numpy(labels))
    assert average_precision_score(labels, scores) < found["ap"].low
    assert found["auc"].low == found["auc"].high == roc_auc_score(labels, scores) == 0


def test_forgeries_of_one_photograph_are_drawn_with_it(sample):
    """Four copies of each fake, and its real image: four times as many fakes tell nothing new."""
    random = np.random.default_rng(4)
    real, fake = random.normal(size=60), 0.7 + random.normal(size=60)

    def of(copies, scenes_of):
        scores = torch.from_numpy(np.concatenate([real, *[fake] * copies]))
        labels = torch.arange(len(scores)) >= 60
        return intervals.detection_intervals(scores, labels, scenes_of(len(scores)))

    def shared(length):
        return np.arange(length) % 60

    once, four_times = of(1, shared)["auc"], of(4, shared)["auc"]
    assert four_times == pytest.approx(once)
    apart = of(4, lambda length: None)["auc"]
    assert apart.high - apart.low < 0.85 * (once.high - once.low)


def test_of_one_scene_there_is_none():
    scores, labels = torch.tensor([0.9, 0.1]), torch.tensor([1, 0])
    found = intervals.detection_intervals(scores, labels, np.array(["one", "one"]))
    assert np.isnan([*found["ap"], *found["auc"]]).all()
