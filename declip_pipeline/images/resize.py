"""Resizing of images and masks as in the paper's preprocessing."""

import numpy as np
from PIL import Image

from declip_pipeline.errors import UnknownNameError

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_image(
    image: np.ndarray, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resize to `height` x `width` pixels without a crop; the aspect ratio is not kept.

    Args:
        image: HWC uint8 RGB.
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
    resized = Image.fromarray(image).resize((width, height), _FILTERS[interpolation])
    return np.array(resized)


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
