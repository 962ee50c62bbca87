"""One sample before it is forged: a crop of a photograph and the region to paint anew."""

import cv2
import numpy as np
from numpy.random import Generator

from declip_pipeline.datasets.demo.masks import irregular_mask

SIZE = 256  # pixels along a side
LARGEST_REDUCTION = 2.5
TRIES = 30
# A pixel has detail where the grey values about it (9x9) spread by more than this.
DETAIL_SPREAD = 4.0
DETAIL_SHARE = 0.7


def crop_and_region(photograph: np.ndarray, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop, (256, 256, 3) uint8 RGB in [0, 255], and its region, (256, 256) bool.

    The crop is 1 to 2.5 times as large in the photograph (never enlarged: that would blur as
    inpainting does), and flipped left to right half of the time. Draws until most of the region
    has detail, since painting over a flat wall or a black sky changes nothing that could be
    found; the best of 30 draws is taken where none has enough.
    """
    best_share, best = -1.0, None
    for _ in range(TRIES):
        crop = _crop(photograph, random)
        region = irregular_mask(random, SIZE)
        share = float(_has_detail(crop)[region].mean())
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


def _has_detail(picture: np.ndarray) -> np.ndarray:
    """HW bool: where the grey values of the neighbourhood spread."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(grey, (9, 9))
    variance = cv2.blur(grey * grey, (9, 9)) - mean * mean
    return np.asarray(variance > DETAIL_SPREAD**2)
