"""Several sides on the same images: means, ranks and all pairs, of localization and detection."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.made_evaluation import detected, localized

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.intervals import detection_figures, localization_figures
from declip_pipeline.evaluation.metrics import (
    DEFAULT_METRICS,
    DETECTION_METRICS,
    LOCALIZATION_METRICS,
)
from declip_pipeline.evaluation.pairs import compared, lacking_values
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.metrics.bootstrap import mean_interval, paired_means
from declip_pipeline.metrics.detection import area_under_roc, detection_metrics
from declip_pipeline.metrics.holm import holm


def compare(*sides, metrics=None):
    return compared([[one] for one in sides], score=MEAN_SIGMOID, metrics=metrics)


def test_differences_are_of_the_same_images_by_generator_and_overall():
    ours, theirs = [60.0, 70.0, 90.0], [50.0, 55.0, 85.0]
    means, pairs = compare(
        localized("a", lama=[10.0, 30.0], ldm=ours), localized("b", ldm=theirs, lama=[20.0, 20.0])
    )
    assert [(pair.generator, pair.metric) for pair in pairs] == [
        (name, metric) for name in ("lama", "ldm", "overall") for metric in DEFAULT_METRICS
    ]
    ldm, overall = pairs[len(DEFAULT_METRICS)], pairs[2 * len(DEFAULT_METRICS)]
    assert (ldm.images, ldm.difference.value) == pytest.approx((3, 10))
    first, second = means[2 * len(DEFAULT_METRICS) : 2 * len(DEFAULT_METRICS) + 2]
    assert (first.value, second.value) == pytest.approx((220 / 3, 190 / 3))
    assert ldm.difference == paired_means([np.array(ours), np.array(theirs)]).difference(0, 1)
    assert first.interval == mean_interval(np.array(ours))
    assert overall.images == 5
    assert overall.difference.value == pytest.approx(30 / 5)
    # Of a single pair there is nothing to correct.
    assert all(pair.corrected_p_value == pair.difference.p_value for pair in pairs)


def test_forgeries_of_one_photograph_count_as_one_overall():
    def side(*ious):
        return localized("a", scenes="set", lama=ious, ldm=ious)

    _, pairs = compare(side(60.0, 70.0, 90.0, 20.0), side(50.0, 55.0, 85.0, 30.0))
    alone, overall = pairs[0], pairs[2 * len(DEFAULT_METRICS)]
    assert overall.images == 8
    assert overall.difference.interval == pytest.approx(alone.difference.interval)
    assert overall.difference.p_value == alone.difference.p_value


def test_images_that_one_run_lacks_or_without_a_fake_are_left_out():
    first = localized("a", ldm=[60.0, 70.0, None, 90.0])
    _, pairs = compare(first, localized("b", ldm=[50.0, 50.0, None]))
    assert [pair.generator for pair in pairs] == ["ldm"] * len(DEFAULT_METRICS)
    assert (pairs[0].images, pairs[0].difference.value) == (2, 15.0)
    with pytest.raises(InputError, match="for every run: the runs have 4, 1 images; give"):
        compare(first, localized("b", lama=[1.0]))


def test_a_side_may_have_several_seeds():
    seeds = [localized("a", ldm=[60.0, 70.0]), localized("a", ldm=[62.0, 72.0])]
    means, pairs = compared([seeds, [localized("b", ldm=[50.0, 50.0])]], score=MEAN_SIGMOID)
    assert means[0].value == 66 and pairs[0].difference.value == 16
    # Two images draw 11 to 21, two seeds 9.17 to either side.
    assert pairs[0].difference.interval == pytest.approx((1.83, 30.17), abs=0.01)


def test_ranks_of_several_have_the_range_of_their_resamples():
    # Whole numbers, so that equal means are equal to the last bit.
    images = np.random.default_rng(0).permutation(30) + 20.0
    clear, near, same = images + 30, images + np.resize([-2.0, 2.0], 30), images
    sides = [
        localized("abcd"[n], ldm=some.tolist()) for n, some in enumerate((near, clear, same, same))
    ]
    means, pairs = compare(*sides, metrics=["iou"])
    assert [(one.side, one.rank, one.ranks) for one in means] == [
        (0, 2, (2, 4)), (1, 1, (1, 1)), (2, 2, (2, 3)), (3, 2, (2, 3)),
    ]  # fmt: skip
    assert [pair.sides for pair in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    differences = [pair.difference for pair in pairs]
    assert [one.value for one in differences] == pytest.approx([-30, 0, 0, 30, 30, 0])
    assert [pair.corrected_p_value for pair in pairs] == holm([one.p_value for one in differences])
    # Three of six pairs are as clear as 10,000 resamples can show: 6, 5 and 4 times, and the last
    # two are raised to the first.
    assert pairs[0].corrected_p_value == pytest.approx(6 * 2 / 10_001)
    assert pairs[1].corrected_p_value == pairs[-1].corrected_p_value == 1


def test_a_metric_that_a_run_lacks_is_left_out_and_another_is_refused():
    one, other = localized("a", ldm=[60.0, 70.0]), localized("b", ldm=[1.0, 2.0])
    name = "iou_valid_threshold"
    table = one.table.drop_columns([name]).append_column(name, pa.array([np.nan] * 2))
    _, pairs = compare(replace(one, table=table), other)
    assert [pair.metric for pair in pairs] == [
        metric for metric in DEFAULT_METRICS if metric != name
    ]
    sides = [[replace(one, table=table)], [other]]
    for metrics in (None, ["all"], ["iou", name]):
        assert lacking_values(sides, metrics) == {name: [0]}
    assert lacking_values(sides, ["iou"]) == {}
    assert {pair.metric for pair in compare(*(one for (one,) in sides), metrics=["all"])[1]} == {
        *LOCALIZATION_METRICS
    } - {name}
    with pytest.raises(InputError, match="a run has no values of iou_valid_threshold"):
        compare(replace(one, table=table), other, metrics=["iou", name])
    with pytest.raises(UnknownNameError, match="unknown metric 'iuo'; did you mean 'iou'"):
        compare(one, other, metrics=["iuo"])


def test_pooled_metrics_are_paired_over_the_same_scenes():
    ours, theirs = [60.0, 70.0, 90.0], [50.0, 55.0, 85.0]
    sides = [localized(name, ldm=values) for name, values in (("a", ours), ("b", theirs))]
    means, (pair,) = compare(*sides, metrics=["iou_pooled"])
    for one, mean in zip(sides, means, strict=True):
        figures = localization_figures([one])
        assert mean.value == pytest.approx(figures["iou_pooled"])
        ends = figures["iou_pooled_low"], figures["iou_pooled_high"]
        assert mean.interval == pytest.approx(ends)
    assert pair.images == 3
    assert pair.difference.value == pytest.approx(means[0].value - means[1].value)
    # Every image is better for the first side, so that every resample is.
    assert pair.difference.p_value == pytest.approx(2 / 10_001)
    _, (again,) = compare(sides[0], replace(sides[0], run=Path("c")), metrics=["f1_pooled"])
    assert again.difference.interval == (0, 0)


REAL, GOOD, BAD = [0.1, 0.2, 0.3, 0.45], [0.6, 0.8, 0.9, 0.4], [0.4, 0.6, 0.1, 0.25]


def test_detection_is_compared_by_all_images_together():
    first = detected("a", real=REAL, ldm=GOOD, lama=GOOD[::-1])
    second = detected("b", real=REAL[::-1], ldm=BAD, lama=BAD)
    means, pairs = compare(first, second)
    assert [(pair.generator, pair.metric) for pair in pairs] == [
        (name, metric) for name in ("lama", "ldm", "overall") for metric in DETECTION_METRICS
    ]
    found = {(one.generator, one.metric, one.side): one for one in means}
    scores, labels = torch.tensor(REAL + GOOD, dtype=torch.float64), torch.tensor([0] * 4 + [1] * 4)
    assert found["ldm", "auc", 0].value == pytest.approx(area_under_roc(scores, labels))
    measured = detection_metrics(scores, labels)
    assert found["ldm", "ap", 0].value == pytest.approx(measured["average_precision"])
    assert found["ldm", "accuracy_at_0_5", 0].value == measured["accuracy_at_0_5"]
    figures = detection_figures([second.of("ldm")], MEAN_SIGMOID)
    of_threshold = found["ldm", "accuracy_at_threshold", 1]
    assert of_threshold.value == pytest.approx(figures["accuracy_at_threshold"])
    assert found["ldm", "ap", 1].interval == pytest.approx(figures["ap_interval"])
    assert (of_threshold.images, found["overall", "ap", 0].images) == (8, 12)
    for pair in pairs:
        a, b = (found[pair.generator, pair.metric, side].value for side in (0, 1))
        assert pair.difference.value == pytest.approx(a - b)
        low, high = pair.difference.interval
        assert low <= pair.difference.value <= high


def test_the_same_images_make_the_difference_of_equal_detectors_certain():
    one = detected("a", real=REAL, ldm=GOOD)
    _, pairs = compare(one, detected("b", real=REAL, ldm=GOOD))
    for pair in pairs:
        assert (pair.difference.value, *pair.difference.interval) == (0, 0, 0)
        assert pair.difference.p_value == 1


def test_seeds_of_detection_widen_the_interval():
    seeds = [detected("a", 0, real=REAL, ldm=GOOD), detected("a", 1, real=REAL, ldm=BAD)]
    other = [detected("b", real=REAL, ldm=GOOD)]
    means, pairs = compared([seeds, other], score=MEAN_SIGMOID, metrics=["auc"])
    (alone, _), _ = compared([seeds[:1], other], score=MEAN_SIGMOID, metrics=["auc"])
    figures = detection_figures(seeds, MEAN_SIGMOID)
    assert means[0].value == pytest.approx(figures["auc"])
    assert pairs[0].difference.value == pytest.approx(means[0].value - means[1].value)
    width = means[0].interval.high - means[0].interval.low
    assert width > alone.interval.high - alone.interval.low


def test_detection_needs_a_fake_and_a_real_image_of_all():
    first = detected("a", real=REAL, ldm=GOOD)
    with pytest.raises(InputError, match="^4 fake and 0 real images were evaluated for every"):
        compare(first, detected("b", real=[], ldm=GOOD))
