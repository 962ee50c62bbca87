"""Overlay of a map on its image as heat, on a fixed scale."""

from functools import cache

import numpy as np
from matplotlib import colormaps

from declip_pipeline.errors import InputError

HEAT = "inferno"
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as PIL's "L"
STRONGEST = 0.75  # how much of the heat's colour covers the image where the map is 1
PIXELS_AT_ONCE = 2**20
ROUNDING = 1e-4  # what an interpolated map may lie outside [0, 1]; it is clipped


def overlay(image: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Lay a map over its image: grey where it is 0, hot where it is 1.

    The image is drawn in grey, so that all colour comes from the map. The scale is fixed from 0
    to 1, so overlays of different images can be compared. Computed strip by strip, in constant
    memory beside input and output.

    Args:
        image: (H, W, 3) uint8.
        heat_map: (H, W) floating point in [0, 1].

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: Shapes, dtypes or values do not fit.
    """
    check_image_and_map(image, heat_map)
    result = np.empty_like(image)
    strip = max(1, PIXELS_AT_ONCE // image.shape[1])
    for top in range(0, image.shape[0], strip):
        rows = slice(top, top + strip)
        grey = np.rint(image[rows] @ LUMA).astype(np.uint8)
        result[rows] = overlaid(grey, heat_map[rows])[..., :3]
    return result


def overlaid(grey: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Return the overlay of a map on a grey image, unchecked.

    Args:
        grey: (H, W) uint8.
        heat_map: (H, W) floating point in [0, 1].

    Returns:
        (H, W, 4) uint8: red, green, blue, and a byte without a meaning, PIL's mode RGBX.
    """
    levels = (heat_map.clip(0, 1) * 255.0 + 0.5).astype(np.uint16)
    levels <<= 8
    levels |= grey
    return _overlay_table()[levels].view(np.uint8).reshape(*grey.shape, 4)


@cache
def _overlay_table() -> np.ndarray:
    """Return the colours of 256 levels of heat on 256 greys, 4 bytes each, (65536,) uint32."""
    level = np.linspace(0, 1, 256, dtype=np.float32)
    # Inferno from violet to orange: its dark end would blacken the image, and its pale end
    # be lost on bright skin and sky.
    colours = colormaps[HEAT](0.3 + 0.5 * level)[:, None, :3].astype(np.float32) * 255
    strength = STRONGEST * level[:, None, None]
    grey = np.arange(256, dtype=np.float32)[:, None]
    table = np.zeros((256, 256, 4), np.uint8)
    table[..., :3] = np.rint(grey * (1 - strength) + colours * strength)
    return table.view(np.uint32).ravel()


def check_image_and_map(image: np.ndarray, heat_map: np.ndarray) -> None:
    """Raise `InputError` unless an image and a map belong together."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(
            f"image is {image.dtype} of shape {image.shape}; expected uint8 of shape "
            "(height, width, 3)"
        )
    if heat_map.shape != image.shape[:2]:
        raise InputError(
            f"map has shape {heat_map.shape} and its image {image.shape[:2]}; resize the map "
            "to the image first"
        )
    low, high = float(heat_map.min()), float(heat_map.max())
    # Written so that NaN, which fails every comparison, is refused too.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(f"map has values from {low:g} to {high:g}; expected [0, 1]")
