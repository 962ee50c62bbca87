"""Samples of megapixels before they are forged: photographs joined at their own scale."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from declip_pipeline.datasets.demo.crops import DETAIL_SHARE, detail_of, irregular_mask
from declip_pipeline.datasets.demo.forgeries import Forge, latent

MEGAPIXELS = (2.0, 12.0)
ASPECTS = (3 / 2, 4 / 3, 1.0, 16 / 9, 2 / 3, 3 / 4)
SHARES = (0.0005, 0.01)  # of the canvas that its region covers
TRIES = 10
# A region is drawn in a square of this side and scaled to its share.
DRAWN = 256
# What a forgery sees about the region's square, in sides of it to each direction.
CONTEXT = 1.0


def canvas_and_region(
    photographs: Sequence[np.ndarray], random: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a canvas, (height, width, 3) uint8 RGB of 2 to 12 megapixels, and its region, HW bool.

    The canvas is cut into pieces until each fits into half of the photographs, of which one gives
    its pixels as they are, flipped left to right half of the time. Seams between photographs are on
    real and on forged canvases alike. The region is one irregular patch of 0.05% to 1% of the area,
    where the image has detail; the best of ten draws where none has enough.
    """
    area = 1e6 * np.exp(random.uniform(*np.log(MEGAPIXELS)))
    aspect = float(random.choice(ASPECTS))
    height, width = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
    canvas = np.empty((height, width, 3), np.uint8)
    _fill(canvas, photographs, random)
    return canvas, _region(canvas, random)


def forge_on_canvas(
    forge: Forge, canvas: np.ndarray, region: np.ndarray, random: Generator
) -> np.ndarray:
    """Return the canvas with its region painted again from what lies about it.

    `latent` sees the whole canvas, every pixel of which it changes.
    """
    if forge is latent:
        return forge(canvas, region, random)
    rows, columns = np.nonzero(region.any(1))[0], np.nonzero(region.any(0))[0]
    margin = round(CONTEXT * max(np.ptp(rows), np.ptp(columns)) + 32)
    here = (
        slice(max(0, rows[0] - margin), rows[-1] + margin),
        slice(max(0, columns[0] - margin), columns[-1] + margin),
    )
    forged = canvas.copy()
    forged[here] = forge(np.ascontiguousarray(canvas[here]), region[here], random)
    return forged


def _fill(part: np.ndarray, photographs: Sequence[np.ndarray], random: Generator) -> None:
    height, width = part.shape[:2]
    fitting = [one for one in photographs if one.shape[0] >= height and one.shape[1] >= width]
    if 2 * len(fitting) >= len(photographs):
        photograph = fitting[int(random.integers(len(fitting)))]
        top = int(random.integers(photograph.shape[0] - height + 1))
        left = int(random.integers(photograph.shape[1] - width + 1))
        piece = photograph[top : top + height, left : left + width]
        part[:] = piece[:, ::-1] if random.random() < 0.5 else piece
        return
    share = random.uniform(0.35, 0.65)
    if height > width:
        cut = round(height * share)
        halves = part[:cut], part[cut:]
    else:
        cut = round(width * share)
        halves = part[:, :cut], part[:, cut:]
    for half in halves:
        _fill(half, photographs, random)


def _region(canvas: np.ndarray, random: Generator) -> np.ndarray:
    height, width = canvas.shape[:2]
    shape = irregular_mask(random, DRAWN)
    area = height * width * np.exp(random.uniform(*np.log(SHARES)))
    side = round(DRAWN * (area / shape.sum()) ** 0.5)
    shape = cv2.resize(shape.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
    rows, columns = np.nonzero(shape.any(1))[0], np.nonzero(shape.any(0))[0]
    shape = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    best_share, best = -1.0, (0, 0)
    for _ in range(TRIES):
        top = int(random.integers(height - shape.shape[0] + 1))
        left = int(random.integers(width - shape.shape[1] + 1))
        here = canvas[top : top + shape.shape[0], left : left + shape.shape[1]]
        share = float(detail_of(here)[shape].mean())
        if share > best_share:
            best_share, best = share, (top, left)
        if share >= DETAIL_SHARE:
            break
    region = np.zeros((height, width), bool)
    region[best[0] : best[0] + shape.shape[0], best[1] : best[1] + shape.shape[1]] = shape
    return region
