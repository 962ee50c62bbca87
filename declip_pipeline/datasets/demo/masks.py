"""Irregular regions: blobs and brush strokes, as a forger would outline them by hand."""

import cv2
import numpy as np
from numpy.random import Generator

SMALLEST_SHARE = 0.05
LARGEST_SHARE = 0.35


def irregular_mask(random: Generator, size: int) -> np.ndarray:
    """A square (size, size) bool array, True inside the region.

    One or two blobs, or a thick brush stroke, or one of each; they cover between 5% and 35%.
    """
    while True:
        canvas = np.zeros((size, size), np.uint8)
        kind = random.choice(["blob", "two blobs", "stroke", "blob and stroke"])
        if "blob" in kind:
            for _ in range(2 if kind == "two blobs" else 1):
                _draw_blob(canvas, random)
        if "stroke" in kind:
            _draw_stroke(canvas, random)
        # The margins keep a share on the bound inside it, however a reader rounds.
        if SMALLEST_SHARE + 0.005 <= canvas.mean() <= LARGEST_SHARE - 0.005:
            return canvas.astype(bool)


def _draw_blob(canvas: np.ndarray, random: Generator) -> None:
    """Fill a closed curve whose radius is a few random waves about a mean."""
    size = canvas.shape[0]
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = np.ones_like(angles)
    for wave in range(2, 7):
        strength = random.uniform(0, 0.5) / wave
        radius += strength * np.cos(wave * angles + random.uniform(0, 2 * np.pi))
    radius *= random.uniform(0.12, 0.28) * size
    stretch = random.uniform(0.7, 1.4)
    centre = random.uniform(0.2, 0.8, size=2) * size
    turn = random.uniform(0, 2 * np.pi)
    across, along = radius * np.cos(angles) * stretch, radius * np.sin(angles) / stretch
    points = np.stack(
        [
            centre[0] + across * np.cos(turn) - along * np.sin(turn),
            centre[1] + across * np.sin(turn) + along * np.cos(turn),
        ],
        axis=1,
    )
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)


def _draw_stroke(canvas: np.ndarray, random: Generator) -> None:
    """Draw a brush that walks a few steps, turning a little at each and changing its width."""
    size = canvas.shape[0]
    position = random.uniform(0.2, 0.8, size=2) * size
    direction = random.uniform(0, 2 * np.pi)
    for _ in range(random.integers(3, 7)):
        direction += random.uniform(-1.1, 1.1)
        step = random.uniform(0.1, 0.2) * size
        target = position + step * np.array([np.cos(direction), np.sin(direction)])
        if np.any(target < 0) or np.any(target > size):
            direction += np.pi * 0.7
            target = np.clip(target, 0, size)
        width = int(random.uniform(0.1, 0.22) * size)
        start, end = ((int(x), int(y)) for x, y in (position, target))
        cv2.line(canvas, start, end, 1, width)
        position = target
