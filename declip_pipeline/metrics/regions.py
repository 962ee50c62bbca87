"""Regions: pixels called fake that touch, and masks without the small ones.

Source: removal of small components is a standard step after segmentation, as in
`skimage.morphology.remove_small_objects`; here their size is a share of the image, so that it means
the same at every resolution.
"""

from numbers import Real

import cv2
import numpy as np

from declip_pipeline.errors import InputError


def is_min_region(min_region: object) -> bool:
    """Return whether this is a share of an image's pixels, in [0, 1)."""
    return isinstance(min_region, Real) and 0 <= float(min_region) < 1


def without_small_regions(called: np.ndarray, min_region: float) -> np.ndarray:
    """Return the pixels called fake whose region has at least a share of the image's pixels.

    Pixels are of one region where they touch by their sides. Takes 6 bytes a pixel, and more
    where regions are many.

    Args:
        called: (H, W) bool, True where a pixel is called fake.
        min_region: Share of the image's pixels, in [0, 1); 0 keeps all.

    Returns:
        (H, W) bool; `called` itself where all is kept.

    Raises:
        InputError: `min_region` is no such share, or `called` no such mask.
    """
    called = np.asarray(called)
    if called.ndim != 2 or called.dtype != np.bool_:
        raise InputError(
            f"the mask is {called.dtype} of shape {called.shape}; expected bool of shape (H, W), "
            "True where a pixel is called fake"
        )
    if not is_min_region(min_region):
        raise InputError(
            f"`min_region` is {min_region!r}; expected a share of the image's pixels from 0 to "
            "below 1: 0.01 leaves out regions below one percent"
        )
    if not min_region:
        return called
    labels, sizes = _regions(called)
    is_kept = sizes >= min_region * called.size
    return called if is_kept.all() else np.append(False, is_kept)[labels]


def region_counts(called: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of pixels of each region, and of those that are truly fake.

    Args:
        called: (H, W) bool, True where a pixel is called fake.
        truth: (H, W) bool, True where it is.

    Returns:
        Both (regions,) int64.
    """
    labels, sizes = _regions(called)
    return sizes, np.bincount(labels[truth], minlength=len(sizes) + 1)[1:]


def _regions(called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the regions of a mask.

    Returns:
        (H, W) int32, 0 where nothing is called fake; and the regions' pixels, (regions,) int64.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(called).view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    return labels, statistics[1:, cv2.CC_STAT_AREA].astype(np.int64)
