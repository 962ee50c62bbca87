"""Resizing of images and masks as in the paper's preprocessing."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from declip_pipeline.errors import UnknownNameError

_PIXELS_AT_ONCE = 2**20

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_image(
    image: np.ndarray | Image.Image, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resize to `height` x `width` pixels without a crop; the aspect ratio is not kept.

    Args:
        image: HWC uint8 RGB, or a PIL image of mode RGB.
        height: Pixels.
        width: Pixels.
        interpolation: "bilinear" or "bicubic", antialiased when shrinking.

    Returns:
        HWC uint8, [0, 255], writable.

    Raises:
        UnknownNameError: Another interpolation.

    Source: the reference's preprocessing, bilinear on the PIL image (equal to the golden file).
    """
    if interpolation not in _FILTERS:
        raise UnknownNameError("interpolation", interpolation, _FILTERS)
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.array(opened.resize((width, height), _FILTERS[interpolation]))


def thumbnail(image: np.ndarray, size: int = 128) -> np.ndarray:
    """Return a small square image for reports: (size, size, 3) uint8 from HWC uint8.

    The aspect ratio is not kept, so that the content is aligned with the decoders' square maps.
    """
    return resize_image(image, size, size, "bilinear")


def resize_mask(mask: np.ndarray, height: int = 256, width: int = 256) -> np.ndarray:
    """Resize a mask, HW bool, to a training target: HW uint8, 0 (real) to 255 (fake).

    Bilinear with antialias and not binarised: a pixel on an edge holds the fraction that is fake.

    Source: the reference's training target (DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849).
    """
    full = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.array(full.resize((width, height), Image.Resampling.BILINEAR))


def resized_strips(values: np.ndarray, height: int, width: int) -> Iterator[np.ndarray]:
    """Resize a map bilinearly, `align_corners` false and without antialias; yield it from the top.

    Equal to `decoders.decoder.resized_maps` up to rounding.

    Args:
        values: (h, w) float32 in [0, 1].
        height: Pixels.
        width: Pixels.

    Yields:
        Strips of the result, (rows, width) float32 in [0, 1], of about a million pixels each: large
        maps take no memory beside them.
    """
    left, right, share = _neighbours(values.shape[1], width)
    across = values[:, left]
    across += (values[:, right] - across) * share
    upper, lower, share = _neighbours(values.shape[0], height)
    strip = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, strip):
        rows = slice(top, top + strip)
        result = across[upper[rows]]
        below = across[lower[rows]]
        below -= result
        below *= share[rows, None]
        result += below
        # Interpolation may leave [0, 1] by a rounding error.
        yield np.clip(result, 0, 1, out=result)


def _neighbours(count: int, places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which of `count` values lie on both sides of each place, and where it lies between."""
    where = (np.arange(places) + 0.5) * (count / places) - 0.5
    where = where.clip(0, count - 1)
    before = where.astype(np.int64)
    return before, np.minimum(before + 1, count - 1), (where - before).astype(np.float32)
