"""Mask files to arrays of fake pixels, and to the soft targets of training."""

from pathlib import Path

import numpy as np
from PIL import Image

from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_image

WHITE_FROM = 128
"""Least 8-bit grey value that counts as white."""


def decode_mask(
    source: Path | bytes, *, fake_is_white: bool, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> np.ndarray:
    """Decode a mask file, or its content, at its own size: HW bool, True = fake.

    White is an 8-bit grey value of at least 128 (colours by their luma, 16-bit grey scaled down).
    The EXIF orientation is applied as it is to pictures, so that the two stay aligned.

    Raises `ImageError` as `decode_image` does.
    """
    rgb = decode_image(source, max_megapixels=max_megapixels)
    white: np.ndarray = np.asarray(Image.fromarray(rgb).convert("L")) >= WHITE_FROM
    return white if fake_is_white else ~white


def resize_mask(mask: np.ndarray, height: int = 256, width: int = 256) -> np.ndarray:
    """Resize a mask, HW bool, to the target of training: HW uint8, 0 real .. 255 fake.

    Bilinear with antialias and not binarised, so pixels on an edge hold the share that is fake.

    Source: the reference's training target (DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849).
    """
    full = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.array(full.resize((width, height), Image.Resampling.BILINEAR))
