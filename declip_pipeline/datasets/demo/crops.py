"""Samples before they are forged: a crop of a photograph and an irregular region to paint again."""

import cv2
import numpy as np
from numpy.random import Generator

SIZE = 256  # pixels along a side
SMALLEST_SHARE = 0.05  # of the crop that its region covers
LARGEST_SHARE = 0.35
LARGEST_REDUCTION = 2.5
TRIES = 30
# A pixel has detail where the grey values about it (9x9) spread by more than this.
DETAIL_SPREAD = 4.0
DETAIL_SHARE = 0.7


def crop_and_region(photograph: np.ndarray, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a crop, (256, 256, 3) uint8 RGB in [0, 255], and its region, (256, 256) bool.

    The crop is 1 to 2.5 times as large in the photograph (never enlarged: that would blur as
    inpainting does), and flipped left to right half of the time. Draws until most of the region
    has detail, since painting over a flat wall or a black sky changes nothing that could be
    found; the best of 30 draws is taken where none has enough.
    """
    best_share, best = -1.0, None
    for _ in range(TRIES):
        crop = _crop(photograph, random)
        region = irregular_mask(random, SIZE)
        share = float(detail_of(crop)[region].mean())
        if share > best_share:
            best_share, best = share, (crop, region)
        if share >= DETAIL_SHARE:
            break
    assert best is not None
    return best


def _crop(photograph: np.ndarray, random: Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    largest = min(height, width, round(SIZE * LARGEST_REDUCTION))
    side = int(random.integers(SIZE, largest + 1))
    top = int(random.integers(height - side + 1))
    left = int(random.integers(width - side + 1))
    crop = photograph[top : top + side, left : left + side]
    if random.random() < 0.5:
        crop = crop[:, ::-1]
    return cv2.resize(np.ascontiguousarray(crop), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def detail_of(image: np.ndarray) -> np.ndarray:
    """Return where the grey values of the neighbourhood spread: HWC uint8 RGB to HW bool."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(grey, (9, 9))
    variance = cv2.blur(grey * grey, (9, 9)) - mean * mean
    return np.asarray(variance > DETAIL_SPREAD**2)


def irregular_mask(random: Generator, size: int) -> np.ndarray:
    """Draw a region as blobs and brush strokes: (size, size) bool, True inside.

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
