"""Regions of masks, against scipy and scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from declip_pipeline.errors import InputError
from declip_pipeline.metrics.regions import region_counts, without_small_regions


def blobs(seed, shape=(90, 70)):
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, 3) > 0.05


@pytest.mark.parametrize("min_region", [0.001, 0.005, 0.02, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_regions_below_the_share_are_left_out(seed, min_region):
    called = blobs(seed)
    expected = np.zeros_like(called)
    for region in regionprops(label(called, connectivity=1)):
        if region.area >= min_region * called.size:
            expected[tuple(region.coords.T)] = True
    found = without_small_regions(called, min_region)
    assert found.dtype == np.bool_ and np.array_equal(found, expected)
    assert found.any() == (min_region < 0.2) and (found != called).any()


def test_a_region_of_exactly_the_share_is_kept():
    called = np.zeros((10, 10), bool)
    called[0, :2] = called[5, :3] = True
    assert without_small_regions(called, 0.03).sum() == 3
    assert without_small_regions(called, 0.02) is called
    assert not without_small_regions(called, 0.04).any()


def test_pixels_that_touch_by_a_corner_are_two_regions():
    called = np.eye(4, dtype=bool)
    assert region_counts(called, called)[0].tolist() == [1] * 4
    assert not without_small_regions(called, 0.1).any()


@pytest.mark.parametrize("called", [np.zeros((5, 6), bool), np.ones((5, 6), bool)])
def test_masks_of_nothing_and_of_all_stay(called):
    assert np.array_equal(without_small_regions(called, 0.5), called)
    assert without_small_regions(called, 0) is called


def test_a_share_may_be_a_number_of_numpy():
    assert np.array_equal(
        without_small_regions(blobs(5), np.float32(0.5)), without_small_regions(blobs(5), 0.5)
    )


def test_a_transposed_mask_gives_the_transposed_result():
    called = blobs(4)
    found = without_small_regions(called.T, 0.01)
    assert np.array_equal(found, without_small_regions(called, 0.01).T)


def test_counts_are_of_each_region():
    called, truth = blobs(0), blobs(1)
    labels, count = ndimage.label(called)
    numbers = np.arange(1, count + 1)
    sizes, found = region_counts(called, truth)
    expected = [ndimage.sum(one, labels, numbers).tolist() for one in (called, called & truth)]
    both = [sizes.tolist(), found.tolist()]
    assert sorted(zip(*both, strict=True)) == sorted(zip(*expected, strict=True))
    assert sizes.sum() == called.sum() and found.sum() == (called & truth).sum()


@pytest.mark.parametrize(
    "called", [np.zeros((4, 4), np.uint8), np.zeros((2, 4, 4), bool), np.zeros((4, 4))]
)
def test_what_is_no_mask_is_refused(called):
    with pytest.raises(InputError, match=r"the mask is .* expected bool of shape \(H, W\)"):
        without_small_regions(called, 0.1)


@pytest.mark.parametrize("min_region", [-0.1, 1, 1.5, float("nan"), "valid", None, True, [0.1]])
def test_what_is_no_share_is_refused(min_region):
    with pytest.raises(InputError, match="expected a share of the image's pixels"):
        without_small_regions(np.ones((2, 2), bool), min_region)
