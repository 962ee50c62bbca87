"""Pictures to another size, as the paper's preprocessing does it."""

import numpy as np
from PIL import Image

from declip_pipeline.errors import UnknownNameError

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_image(
    image: np.ndarray, height: int, width: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resize straight to `height` x `width` pixels: no crop, the aspect ratio is not kept.

    `image` is HWC uint8, RGB. Returns HWC uint8, [0, 255], writable. Shrinking is antialiased.

    Raises `UnknownNameError` for an interpolation other than "bilinear" and "bicubic".
    Source: the reference's preprocessing, bilinear on the PIL picture (equal to the golden file).
    """
    if interpolation not in _FILTERS:
        raise UnknownNameError("interpolation", interpolation, _FILTERS)
    resized = Image.fromarray(image).resize((width, height), _FILTERS[interpolation])
    return np.array(resized)


def thumbnail(image: np.ndarray, size: int = 128) -> np.ndarray:
    """A small square picture for reports: (size, size, 3) uint8 from HWC uint8.

    Resized straight (bilinear, antialiased), so its content lines up with the square maps that
    decoders give, whatever the picture's aspect ratio.
    """
    return resize_image(image, size, size, "bilinear")
