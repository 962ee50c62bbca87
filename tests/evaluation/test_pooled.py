"""Metrics of all images' pixels together, and their intervals."""

import numpy as np
import pytest
from support.made_evaluation import localized

from declip_pipeline.evaluation.cells import cells_of, estimates
from declip_pipeline.evaluation.intervals import localization_figures
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.evaluation.pooled import pooled_values, resampled_pooled

IOUS = [20.0, 30.0, 50.0, None, 90.0]


def by_hand(one, kept=None):
    """Pooled IoU (percent) and F1 of some of the images with a fake pixel."""
    found, called, fake = (
        one.values(name)[one.values("has_fake")][slice(None) if kept is None else kept].sum()
        for name in ("found_pixels", "called_pixels", "fake_pixels")
    )
    return 100 * found / (called + fake - found), 2 * found / (called + fake)


def test_pixels_are_summed_before_they_are_divided():
    one = localized("ldm", ldm=IOUS)
    iou, f1 = by_hand(one)
    figures = one.figures()
    assert figures["iou_pooled"] == pytest.approx(iou)
    assert figures["f1_pooled"] == pytest.approx(f1)
    # Of one table of counts, unlike the means of images, F1 follows from IoU.
    assert f1 == pytest.approx(2 * iou / (100 + iou))
    assert figures["iou_pooled"] != pytest.approx(figures["iou"], abs=1)
    assert one.mean("iou_pooled") == figures["iou_pooled"]
    assert figures["iou_pooled_low"] <= iou <= figures["iou_pooled_high"]


def test_resamples_draw_images_with_all_their_pixels():
    one = localized("ldm", ldm=IOUS)
    scenes = one.values("scene")[one.values("has_fake")]
    (drawn,) = resampled_pooled(
        [pooled_values([one], "iou_pooled")], scenes=[scenes], seeds_alike=[0], resamples=400
    )
    # Every draw of four images with replacement.
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 4), axis=-1).reshape(-1, 4)
    possible = np.unique([by_hand(one, kept)[0] for kept in grid])
    place = np.searchsorted(possible, drawn).clip(1, len(possible) - 1)
    nearest = np.minimum(abs(possible[place] - drawn), abs(possible[place - 1] - drawn))
    assert nearest.max() < 1e-9
    assert len(np.unique(drawn.round(9))) > 20


def test_scenes_are_drawn_whole():
    one = localized("ldm", scenes="photo", ldm=[90.0, 10.0], lama=[90.0, 10.0])
    (drawn,) = resampled_pooled(
        [pooled_values([one], "f1_pooled")],
        scenes=[one.values("scene")],
        seeds_alike=[0],
        resamples=200,
    )
    # Twice the first photograph, twice the second, or both: three values.
    assert len(np.unique(drawn.round(9))) == 3


def test_over_seeds_it_is_the_mean_of_each_seeds_own():
    seeds = [localized("ldm", seed, ldm=[50.0 + 10 * seed, 30.0]) for seed in range(3)]
    figures = localization_figures(seeds)
    each = [by_hand(one)[0] for one in seeds]
    assert figures["iou_pooled"] == pytest.approx(np.mean(each))
    assert figures["iou_pooled_spread"] == pytest.approx(np.std(each, ddof=1))


def test_means_over_cells_and_matrices_take_pooled_metrics():
    runs = [localized(name, ldm=[70.0, 20.0], lama=[40.0, 10.0]) for name in ("ldm", "lama")]
    found = estimates(cells_of(runs), ["iou_pooled", "iou"])
    each = [by_hand(one.of(name))[0] for one in runs for name in ("lama", "ldm")]
    assert found["iou_pooled"].value == pytest.approx(np.mean(each))
    low, high = found["iou_pooled"].interval
    assert low <= found["iou_pooled"].value <= high
    (matrix,) = matrices(runs, metrics=["f1_pooled"], with_intervals=True)
    cell = matrix.table.cell("ldm", "lama")
    assert cell.value == pytest.approx(by_hand(runs[1].of("ldm"))[1])
    assert 0 <= cell.interval.low <= cell.interval.high <= 1


def test_without_a_fake_pixel_there_is_none():
    figures = localized("ldm", ldm=[None, None]).figures()
    assert figures["iou_pooled"] is None and figures["f1_pooled_low"] is None


def test_an_image_without_auc_is_left_out_of_it_and_counted():
    one = localized("ldm", ldm=[50.0, 60.0, 70.0])
    place = one.table.column_names.index("auc")
    table = one.table.set_column(place, "auc", [[0.5, float("nan"), 0.9]])
    one = type(one)(
        one.run, one.config, one.task, one.split, one.stores, table, one.calibration, one.real
    )
    figures = one.figures()
    assert figures["auc"] == pytest.approx(0.7)
    assert figures["images_without_auc"] == 1 and figures["images"] == 3
    assert figures["auc_low"] == 0.5 and figures["auc_high"] == 0.9
    assert figures["iou"] == 60.0
