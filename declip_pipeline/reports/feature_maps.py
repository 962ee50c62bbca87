"""Maps of features: principal components, norms and massive activations of each position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.tiles import image_ids
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.scores import logits_of
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.inputs import inputs_like
from declip_pipeline.store.format import THUMBNAIL_SIZE
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.training.patch_moments import PatchMoments
from declip_pipeline.training.probe import PatchProjection
from declip_pipeline.training.run import RunLike, as_run
from declip_pipeline.training.tile_choice import fake_shares

DEFAULT_IMAGES = 8

COMPONENTS = 3
# Each component from its 1st to its 99th percentile: a few far positions would leave all others
# one colour.
SHOWN_PERCENTILES = (1, 99)

FAR_OUT = 3.0
"""Interquartile ranges above the upper quartile from which on a norm is an outlier.

Source: the outer fence of Tukey, Exploratory Data Analysis (1977).
"""

MASSIVE_RATIO, MASSIVE_MAGNITUDE = 1000.0, 100.0
"""A massive activation is so many times the median magnitude of its layer, and larger than that.

Source: Sun et al., Massive Activations in Large Language Models (arXiv 2402.17762), section 2.
"""

# Candidates of a store of tiles, of which those with a fake pixel are taken first.
_MOST_TILES = 256
# Ids that an error names.
_NAMED_IDS = 3


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Maps of one layer's features over N images, at the layer's h x w positions.

    Prefix tokens (class token, registers) are left out.

    Attributes:
        layer: Name of the layer.
        components: (N, h, w, 3) uint8, the first three principal components as red, green and
            blue, on the same scale for all images.
        explained: (3,) share of the variance that each component has, in [0, 1].
        norms: (N, h, w) float32, Euclidean norm of a position's features.
        peaks: (N, h, w) float32, largest magnitude of a position over the layer's median magnitude.
        far_norm: Norm above which a position is an outlier; see `FAR_OUT`.
        massive: Number of positions with a massive activation; see `MASSIVE_RATIO`.
        massive_channels: Channels of massive activations, in order.
    """

    layer: str
    components: np.ndarray
    explained: np.ndarray
    norms: np.ndarray
    peaks: np.ndarray
    far_norm: float
    massive: int
    massive_channels: tuple[int, ...]

    @property
    def outliers(self) -> np.ndarray:
        """Positions whose norm is an outlier, (N, h, w) bool."""
        return self.norms > self.far_norm


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Maps of several layers over chosen images of a store.

    Attributes:
        store: The store.
        rows: Rows of the images, or tiles, (N,) int64.
        ids: Their ids.
        images: (N, 128, 128, 3) uint8, the store's thumbnails.
        masks: (N, 256, 256) uint8, 255 = fake; None for a store without masks.
        layers: Maps of each layer, in order of depth.
        predictions: Maps (N, 128, 128) float32 in [0, 1] by the names of the runs given.
    """

    store: Store
    rows: np.ndarray
    ids: tuple[str, ...]
    images: np.ndarray
    masks: np.ndarray | None
    layers: tuple[LayerMaps, ...]
    predictions: dict[str, np.ndarray]


def feature_maps(
    store: StoreLike,
    *,
    layers: Sequence[str] | None = None,
    images: int | Sequence[str] = DEFAULT_IMAGES,
    runs: Sequence[RunLike] = (),
    beside: Sequence[StoreLike] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureMaps:
    """Map the features of some images of a store, layer by layer.

    Principal components are those of all positions of the chosen images, of channels standardised
    to variance 1 (massive activations would otherwise be the components). The sign of each is such
    that its largest weight is positive, so that the same store gives the same colours.

    Args:
        store: The store, or its location.
        layers: Layers to map; None for all.
        images: Number of images, spread over the store's generators; or ids of images or tiles.
            The id of an image stands for all its tiles.
        runs: Finished runs whose maps are wanted, of features of this store.
        beside: Stores of the same images for runs that take features of several stores.
        device: Where runs compute.
        progress: `progress(done, total)` is called after each layer and each run.

    Returns:
        The maps.

    Raises:
        UnknownNameError: A layer is not in the store.
        InputError: No image was chosen, or one that is not in the store or could not be extracted;
            or a run is not finished or damaged.
        IdentityMismatchError: A run was trained on other features, naming the field that differs.
    """
    store = as_store(store)
    names = list(store.layers) if layers is None else list(dict.fromkeys(layers))
    for name in names:
        if name not in store.layers:
            raise UnknownNameError(f"layer in {store.location}", name, store.layers)
    rows = choose_rows(store, images)
    opened = [as_run(run) for run in runs]
    others = [as_store(one) for one in beside]
    total = len(names) + len(opened)
    progress(0, total)
    predictions: dict[str, np.ndarray] = {}
    for run in opened:
        run.summary()
        decoder, features = run.best_decoder()
        inputs = inputs_like(features, store, others, decoder=f"the run {run.path}")
        chosen = choose_device(device)
        found = [
            probability_maps(mean_logits(logits), THUMBNAIL_SIZE, THUMBNAIL_SIZE).cpu().numpy()
            for _, logits in logits_of(
                AveragedDecoders([decoder]).to(chosen),
                store,
                inputs.sources,
                rows,
                "labels",
                chosen,
                len(rows),
            )
        ]
        predictions[run.name] = np.concatenate(found)
        progress(len(predictions), total)
    mapped = []
    for name in names:
        mapped.append(_map_layer(store, name, rows))
        progress(len(predictions) + len(mapped), total)
    return FeatureMaps(
        store,
        rows,
        tuple(store.samples.take(rows).ids),
        store.read_thumbnails(rows),
        store.read_targets(rows) if store.has_masks else None,
        tuple(mapped),
        predictions,
    )


def choose_rows(store: Store, images: int | Sequence[str]) -> np.ndarray:
    """Return rows to look at, (N,) int64; arguments and errors as for `feature_maps`.

    A number is spread over the generators (real images are one of them), and within each evenly
    over the ids. Of tiles, those with a fake pixel come first.
    """
    if isinstance(images, int):
        if images < 1:
            raise InputError(f"`images` is {images}; expected at least 1, or names of images")
        return _spread_rows(store, images)
    ids = store.samples.ids
    of_images = image_ids(store.samples) if store.samples.are_tiles else ids
    rows: list[int] = []
    for name in images:
        found = [row for row, both in enumerate(zip(ids, of_images, strict=True)) if name in both]
        if not found:
            raise InputError(
                f"{store.location} has no image {name!r}; its ids are such as "
                f"{', '.join(ids[:_NAMED_IDS])}"
            )
        failed = next((row for row in found if row in store.failures), None)
        if failed is not None:
            raise InputError(
                f"{store.location} has no features of {ids[failed]} ({store.failures[failed]}); "
                "choose another image"
            )
        rows += found
    if not rows:
        raise InputError("no image was chosen; expected their number, or names of some")
    return np.asarray(list(dict.fromkeys(rows)), np.int64)


def _spread_rows(store: Store, count: int) -> np.ndarray:
    usable = np.setdiff1d(np.arange(len(store)), list(store.failures))
    groups = []
    for rows in store.samples.rows_by("generator", rows=store.samples.by_id(usable)).values():
        own = rows
        if store.samples.are_tiles and store.has_masks:
            own = _evenly(rows, _MOST_TILES)
            is_forged = fake_shares(store, own) > 0
            own = own[is_forged] if is_forged.any() else own
        groups.append(own)
    if not groups:
        raise InputError(f"{store.location} has no image with features; nothing to show")
    # Round by round one of each generator that has more, so that small ones are all taken.
    shares = [0] * len(groups)
    while sum(shares) < count and any(s < len(g) for s, g in zip(shares, groups, strict=True)):
        for number, group in enumerate(groups):
            if shares[number] < len(group) and sum(shares) < count:
                shares[number] += 1
    # Generators often forge the same photographs: each begins elsewhere, to show more of them.
    return np.concatenate(
        [
            _evenly(group, share, number / len(groups))
            for number, (group, share) in enumerate(zip(groups, shares, strict=True))
        ]
    )


def _evenly(rows: np.ndarray, count: int, start: float = 0.0) -> np.ndarray:
    """Return `count` of these rows at even distances, or all where they are fewer.

    `start` is where the first one lies in its part, in [0, 1).
    """
    if count >= len(rows):
        return rows
    places = (np.arange(count) + start) * len(rows) / max(1, count)
    return rows[places.astype(np.int64)]


def _map_layer(store: Store, layer: str, rows: np.ndarray) -> LayerMaps:
    shape = store.layers[layer]
    positions = _positions(store.read_layer(layer, rows).decoded(), shape)
    size = (len(rows), shape.height, shape.width)
    projected, explained = _principal_components(positions)
    magnitudes = positions.abs()
    # A layer of zeros has no scale of its own.
    median = max(float(magnitudes.median()), torch.finfo(torch.float32).tiny)
    largest = magnitudes.amax(1)
    norms = positions.norm(dim=1)
    lower, upper = np.percentile(norms.numpy(), (25, 75))
    massive = magnitudes > max(MASSIVE_MAGNITUDE, MASSIVE_RATIO * median)
    return LayerMaps(
        layer=layer,
        components=_as_colours(projected.numpy()).reshape(*size, COMPONENTS),
        explained=explained,
        norms=norms.numpy().reshape(size),
        peaks=(largest / median).numpy().reshape(size),
        far_norm=float(upper + FAR_OUT * (upper - lower)),
        massive=int(massive.any(1).sum()),
        massive_channels=tuple(massive.any(0).nonzero()[:, 0].tolist()),
    )


def _positions(features: Tensor, shape: FeatureShape) -> Tensor:
    """Return features (N, *array_shape) as (N * h * w, channels), without prefix tokens."""
    if shape.is_grid:
        features = features.flatten(2).transpose(1, 2)
    else:
        features = features[:, shape.prefix_tokens or 0 :]
    return features.reshape(-1, shape.channels)


def _principal_components(positions: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return positions (P, channels) on their first components, (P, 3), and shares of variance."""
    moments = PatchMoments(positions.shape[1], joint=True)
    moments.add(positions)
    count = min(COMPONENTS, positions.shape[1])
    components = moments.components(count)
    largest = components.abs().argmax(1, keepdim=True)
    signs = components.gather(1, largest)[:, 0].sign()
    projected = PatchProjection.of(moments, count)(positions) * signs.to(positions)
    # Each channel that varies has variance 1.
    total = max(1, positions.shape[1] - len(moments.constant_channels))
    shares = projected.var(0, correction=0).double().numpy() / total
    missing = COMPONENTS - count
    return torch.nn.functional.pad(projected, (0, missing)), np.pad(shares, (0, missing))


def _as_colours(projected: np.ndarray) -> np.ndarray:
    """Return components (P, 3) as colours (P, 3) uint8, each on a scale of its own."""
    low, high = np.percentile(projected, SHOWN_PERCENTILES, axis=0)
    spread = np.where(high > low, high - low, 1.0)
    levels = np.where(high > low, (projected - low) / spread, 0.5)
    colours: np.ndarray = np.rint(levels.clip(0, 1) * 255).astype(np.uint8)
    return colours
