"""Choice of the tiles to learn from."""

import numpy as np

from declip_pipeline.compute import generator
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.store.reader import Store

ROWS_AT_ONCE = 256
"""Targets of one read."""

EMPTY_PER_FORGED = 1
"""Tiles without a fake pixel for each tile with one, of the same image."""

LEARNED_TILES = "tiles with a fake pixel, and as many without one of each image"
"""The choice in words, for records and notices."""


def fake_shares(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return the share of fake pixels in each row's target, (N,) float64."""
    return np.concatenate(
        [
            (store.read_targets(rows[first : first + ROWS_AT_ONCE]) > 127).mean(axis=(1, 2))
            for first in range(0, len(rows), ROWS_AT_ONCE)
        ]
        or [np.zeros(0)]
    )


def learned_tiles(store: Store, rows: np.ndarray) -> np.ndarray:
    """Choose the rows of a store of tiles that a training of masks takes, in their order.

    All with a fake pixel, and `EMPTY_PER_FORGED` times as many without one of each image, drawn by
    the image's id alone. Of a large image with a small forgery nearly all tiles are empty, and a
    decoder that learns from all of them learns that nothing is fake (docs/design.md).
    """
    images, image_of = whole_images(store.samples.take(rows))
    is_forged = fake_shares(store, rows) > 0
    is_taken = is_forged.copy()
    for image, name in enumerate(images.ids):
        own = np.flatnonzero(image_of == image)
        empty = own[~is_forged[own]]
        count = EMPTY_PER_FORGED * (len(own) - len(empty))
        is_taken[generator(0, "empty tiles", name).permutation(empty)[:count]] = True
    chosen: np.ndarray = rows[is_taken]
    return chosen
