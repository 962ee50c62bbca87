"""A map laid over its picture as heat, on a scale that never changes."""

import numpy as np
from matplotlib import colormaps

from declip_pipeline.errors import InputError

HEAT = "inferno"
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as PIL's "L"
STRONGEST = 0.75  # how much of the heat's colour covers the picture where the map is 1
PIXELS_AT_ONCE = 2**20
ROUNDING = 1e-4  # what an interpolated map may lie outside [0, 1]; it is clipped


def overlay(picture: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Lay a map over its picture: grey where it is 0, hot where it is 1.

    The picture is drawn in grey, so that all colour there is comes from the map. The scale is
    fixed from 0 to 1, so overlays of different pictures compare, and a quiet map looks quiet.

    picture: (H, W, 3) uint8. heat_map: (H, W) floating point in [0, 1].
    Returns: (H, W, 3) uint8. Memory beside input and output: constant (a strip at a time).
    Raises: InputError when shapes, dtypes or values do not fit.
    """
    check_picture_and_map(picture, heat_map)
    colours, strengths = _heat_table()
    result = np.empty_like(picture)
    strip = max(1, PIXELS_AT_ONCE // picture.shape[1])
    for top in range(0, picture.shape[0], strip):
        rows = slice(top, top + strip)
        levels = np.rint(heat_map[rows].clip(0, 1) * 255.0).astype(np.uint8)
        strength = strengths[levels][..., None]
        grey = (picture[rows] @ LUMA)[..., None]
        mixed = grey * (1 - strength) + colours[levels] * strength
        result[rows] = np.rint(mixed).astype(np.uint8)
    return result


def _heat_table() -> tuple[np.ndarray, np.ndarray]:
    """For each of 256 levels the heat's colour (256, 3), 0 to 255, and its strength (256,)."""
    level = np.linspace(0, 1, 256, dtype=np.float32)
    # Inferno from violet to orange: its dark end would blacken the picture, and its pale end
    # be lost on bright skin and sky.
    colours = colormaps[HEAT](0.3 + 0.5 * level)[:, :3].astype(np.float32) * 255
    return colours, STRONGEST * level


def check_picture_and_map(picture: np.ndarray, heat_map: np.ndarray) -> None:
    """Refuse a picture and a map that do not belong together. Raises: InputError."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(
            f"picture is {picture.dtype} of shape {picture.shape}; expected uint8 of shape "
            "(height, width, 3)"
        )
    if heat_map.shape != picture.shape[:2]:
        raise InputError(
            f"map has shape {heat_map.shape} and its picture {picture.shape[:2]}; resize the map "
            "to the picture first"
        )
    low, high = float(heat_map.min()), float(heat_map.max())
    # Written so that NaN, which fails every comparison, is refused too.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(f"map has values from {low:g} to {high:g}; expected [0, 1]")
