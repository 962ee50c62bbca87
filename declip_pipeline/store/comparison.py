"""Two stores of the same images and backbone: what a smaller dtype saves, and what it loses."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import pyarrow.compute as pc

from declip_pipeline.errors import InputError
from declip_pipeline.store.identity import require_same_features
from declip_pipeline.store.reader import Store

BATCH = 32
TIMED_BATCHES = 5


@dataclass(frozen=True)
class LayerComparison:
    """One layer in two stores.

    `bytes_per_image` as stored, `images_per_second` of random batches of 32 read from where the
    stores lie (with a warm page cache on a disk), decoded to float32; pairs, first store first.
    `relative_error` is the root of the sum of squared differences over that of squares in the first
    store; `largest_error` the largest absolute difference; `cosine` the mean over tokens (or
    positions) of the cosine similarity.
    """

    layer: str
    bytes_per_image: tuple[int, int]
    images_per_second: tuple[float, float]
    relative_error: float
    largest_error: float
    cosine: float


def compare_layers(
    first: Store, second: Store, *, images: int = 256, seed: int = 0
) -> Iterator[LayerComparison]:
    """Compare the layers that both stores have, on at most `images` images that both have.

    Raises `IdentityMismatchError` when the features are not of the same backbone, `InputError`
    when no layer or no image is in both.
    """
    rows = _shared_rows(first, second)
    layers = [layer for layer in first.layers if layer in second.layers]
    if not layers or not len(rows[0]):
        raise InputError(
            f"{first.location} and {second.location} share {len(layers)} layers and "
            f"{len(rows[0])} images; expected some of both, extract them from the same dataset"
        )
    for layer in layers:
        require_same_features(
            first.feature_identity(layer),
            second.feature_identity(layer),
            decoder=f"the store {first.location}",
            features=f"the store {second.location}",
        )
    chosen = np.random.default_rng(seed).permutation(len(rows[0]))[:images]
    return (
        _compare_layer(first, second, rows[0][chosen], rows[1][chosen], layer) for layer in layers
    )


def _shared_rows(first: Store, second: Store) -> tuple[np.ndarray, np.ndarray]:
    """Rows of images that both hold, one array a store."""
    rows, other_rows = (
        np.setdiff1d(np.arange(len(store.samples)), list(store.failures))
        for store in (first, second)
    )
    images, other_images = (
        store.samples.take(own).table.column("image_sha256").combine_chunks()
        for store, own in ((first, rows), (second, other_rows))
    )
    place = pc.fill_null(pc.index_in(images, value_set=other_images), -1).to_numpy()
    return rows[place >= 0], other_rows[place[place >= 0]]


def _compare_layer(
    first: Store, second: Store, rows: np.ndarray, other_rows: np.ndarray, layer: str
) -> LayerComparison:
    channel_axis = 1 if first.layers[layer].is_grid else -1
    squares = errors = cosines = 0.0
    largest, batches = 0.0, 0
    for start in range(0, len(rows), BATCH):
        expected = first.read_layer(layer, rows[start : start + BATCH]).decoded().double()
        found = second.read_layer(layer, other_rows[start : start + BATCH]).decoded().double()
        difference = found - expected
        squares += float(expected.square().sum())
        errors += float(difference.square().sum())
        largest = max(largest, float(difference.abs().max()))
        norms = expected.norm(dim=channel_axis) * found.norm(dim=channel_axis)
        cosine = (expected * found).sum(channel_axis) / norms.clamp(min=1e-30)
        # Where both are zeros, they agree.
        cosines += float(cosine.where(norms > 0, 1.0).mean()) * len(expected)
        batches += len(expected)
    return LayerComparison(
        layer=layer,
        bytes_per_image=(first.bytes_per_row(layer), second.bytes_per_row(layer)),
        images_per_second=(
            _rate(lambda chosen: first.read_layer(layer, rows[chosen]).decoded(), len(rows)),
            _rate(lambda chosen: second.read_layer(layer, other_rows[chosen]).decoded(), len(rows)),
        ),
        relative_error=(errors / squares) ** 0.5 if squares else 0.0,
        largest_error=largest,
        cosine=cosines / batches,
    )


def _rate(read: Callable[[np.ndarray], object], images: int) -> float:
    """Images a second of random batches, the median of several."""
    random = np.random.default_rng(0)
    size = min(BATCH, images)
    seconds = []
    for _ in range(TIMED_BATCHES):
        chosen = random.permutation(images)[:size]
        started = time.perf_counter()
        read(chosen)
        seconds.append(time.perf_counter() - started)
    return size / median(seconds)
