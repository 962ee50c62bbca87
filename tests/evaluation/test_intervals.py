"""Means with intervals: over images, over seeds, and images without a fake pixel."""

import numpy as np
import pytest
from support.made_evaluation import localized

from declip_pipeline.evaluation.intervals import localization_figures
from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
from declip_pipeline.metrics.bootstrap import mean_interval


def test_every_mean_has_the_interval_of_its_images():
    ious = [10.0, 40.0, 90.0, 70.0]
    figures = localization_figures([localized("ldm", ldm=ious)])
    assert (figures["images"], figures["images_without_fake"]) == (4, 0)
    assert figures["iou"] == 52.5
    low, high = mean_interval(np.array(ious))
    assert (figures["iou_low"], figures["iou_high"]) == pytest.approx((low, high))
    assert figures["f1_best_low"] == pytest.approx(low / 100)
    assert (figures["ap_low"], figures["ap_high"]) == (0.75, 0.75)
    assert "iou_spread" not in figures
    assert figures["score_without_fake"] is None


def test_over_seeds_the_mean_has_a_spread_and_an_interval_of_both():
    runs = [localized("ldm", ldm=[20.0, 30.0, 40.0]), localized("ldm", ldm=[40.0, 50.0, 60.0])]
    figures = localization_figures(runs)
    assert figures["images"] == 3
    assert figures["iou"] == 40
    assert figures["iou_spread"] == pytest.approx(np.sqrt(200))
    assert figures["iou_low"] < 25 and figures["iou_high"] > 55


def test_images_without_a_fake_pixel_are_reported_apart():
    figures = localization_figures([localized("ldm", ldm=[10.0, 20.0, None, None])])
    assert (figures["images"], figures["images_without_fake"]) == (2, 2)
    assert figures["iou"] == 15
    assert figures["fake_share_without_fake"] == pytest.approx(0.2)
    assert figures["score_without_fake"] == pytest.approx(0.1)


def test_there_is_no_interval_of_one_image_and_no_mean_of_none():
    one = localization_figures([localized("ldm", ldm=[10.0])])
    assert (one["iou"], one["iou_low"], one["iou_high"]) == (10.0, None, None)
    none = localization_figures([localized("ldm", ldm=[None])])
    assert all(
        none[f"{name}{end}"] is None
        for name in LOCALIZATION_METRICS
        for end in ("", "_low", "_high")
    )
