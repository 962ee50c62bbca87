"""Feed: chosen rows of stores as batches on a device, streamed or kept in memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape, to_device
from declip_pipeline.feeding.batch import Batch, Rows
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.feeding.tiers import TIERS, Tier, choose_tier
from declip_pipeline.store.format import TARGET_SIZE
from declip_pipeline.store.reader import Store

TargetKind = Literal["masks", "labels"]
"""Kind of targets: the fake pixels, or only the fake images."""

READ_AHEAD = 2
"""Batches that are read ahead of the one in use: a training step hides a read."""
ROWS_AT_ONCE = 256
"""Rows of one read of many, when a whole array is read."""

Begun = TypeVar("Begun")


class Feed:
    """Batches in any order of images.

    The rows of all stores are numbered 0..len-1 in the order given: a position. At the tiers
    "device" and "memory", features and targets are read once and kept as they are stored; at
    "stream", they are read batch by batch, ahead of their use. All tiers give the same batches.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        sources: Sequence[FeatureSource],
        *,
        device: torch.device,
        tier: str = "auto",
        targets: TargetKind = "masks",
    ) -> None:
        """Choose a tier and, unless it is "stream", read everything.

        Args:
            parts: Stores with the rows to take of each. Stores must hold the same features; the
                caller compares their identities.
            sources: Features to feed.
            device: Device of the batches.
            tier: "device", "memory", "stream", or "auto" for the fastest that all fits into.
            targets: What the batches' targets are.

        Raises:
            InputError: There are no rows, or a source lacks some of their images.
        """
        self.parts = [(store, np.asarray(rows)) for store, rows in parts]
        self.sources = tuple(dict.fromkeys(sources))
        self.device = device
        self.labels = np.concatenate([store.labels[rows] for store, rows in self.parts])
        self._first = np.cumsum([0, *(len(rows) for _, rows in self.parts)])
        if len(self) == 0:
            raise InputError(
                "no fake image was chosen to be fed; expected at least one, check the split and "
                "the generators"
            )
        self.bytes = targets_bytes(self.parts, targets) + sum(
            fed_bytes(self.parts, source) for source in self.sources
        )
        self.tier = choose_tier(self.bytes, device, tier)
        self._dtypes = {source: self._dtype_of(source) for source in self.sources}
        self._features = {source: self._column_of(source) for source in self.sources}
        self._at_windows = {
            source: self._windows_of(source)
            for source in self.sources
            if source.is_at_windows(self.parts[0][0])
        }
        self._targets = _Column(self.parts, _read_targets if targets == "masks" else _read_labels)
        if self.tier != "stream":
            for column in (*self._features.values(), self._targets):
                column.keep(self.tier, device)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def description(self) -> str:
        """A line on what is fed and from where."""
        pictures = counted_rows(self.parts)
        layers = ", ".join(source.layer for source in self.sources)
        return f"{layers}: {pictures}, {self.bytes / 1e9:.2f} GB, {TIERS[self.tier]}"

    @property
    def image_of(self) -> np.ndarray:
        """Number of the image that each position belongs to, (N,) int64; tiles share one."""
        return images_of(self.parts)

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """Return the ids of the images at these positions."""
        part = np.searchsorted(self._first, positions, side="right") - 1
        return [
            self.parts[of][0].samples[self.parts[of][1][position - self._first[of]]].id
            for of, position in zip(part.tolist(), positions, strict=True)
        ]

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Yield batches of the images at the positions `order` (int64); the last may be smaller.

        Raises `StoreError` for a row that is absent or damaged.
        """
        if self.tier != "stream":
            for start in range(0, len(order), batch_size):
                yield self._batch(order[start : start + batch_size])
            return
        with ThreadPoolExecutor(READ_AHEAD, "feed") as threads:
            for _, reading in read_ahead(
                order, batch_size, lambda positions: threads.submit(self._batch, positions)
            ):
                yield reading.result()

    def _batch(self, positions: np.ndarray) -> Batch:
        features = {
            source: (self._dtypes[source], column.rows(positions))
            for source, column in self._features.items()
        }
        at_windows = {
            source: (shape, places[torch.from_numpy(positions)])
            for source, (shape, places) in self._at_windows.items()
        }
        return Batch(
            positions,
            self.device,
            features,
            self._targets.rows(positions),
            at_windows=at_windows,
        )

    def _windows_of(self, source: FeatureSource) -> tuple[FeatureShape, Tensor]:
        """The shape of whole images' features, and the place of each tile in its image."""
        shares = [source.shares_of(store, rows) for store, rows in self.parts]
        shape = source.store_of(self.parts[0][0]).layers[source.layer]
        return shape, torch.from_numpy(np.concatenate(shares))

    def _dtype_of(self, source: FeatureSource) -> str:
        """The dtype of a source's features; float32 where its stores have several."""
        dtypes = {source.store_of(store).identity.dtype for store, _ in self.parts}
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    def _column_of(self, source: FeatureSource) -> "_Column":
        parts = [
            (source.store_of(store), source.rows_of(store, rows)) for store, rows in self.parts
        ]
        return _Column(
            parts, partial(_read_features, layer=source.layer, dtype=self._dtypes[source])
        )


class _Column:
    """Rows at the positions 0..count-1 of one array, of one store or of several."""

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        read: Callable[[Store, np.ndarray], tuple[Tensor, ...]],
    ) -> None:
        # Several tiles of an image take the same row of a store of whole images.
        distinct = [np.unique(rows, return_inverse=True) for _, rows in parts]
        self._index: np.ndarray | None = None
        if any(len(once) < len(rows) for (once, _), (_, rows) in zip(distinct, parts, strict=True)):
            first = np.cumsum([0, *(len(once) for once, _ in distinct)])
            self._index = np.concatenate(
                [place + begin for (_, place), begin in zip(distinct, first, strict=False)]
            )
            parts = [(store, once) for (store, _), (once, _) in zip(parts, distinct, strict=True)]
        self._parts = parts
        self._read = read
        self._first = np.cumsum([0, *(len(rows) for _, rows in parts)])
        self._kept: tuple[Tensor, ...] | None = None
        self._is_pinned = False

    def rows(self, positions: np.ndarray) -> Rows:
        """Return the rows at these positions (int64), read now unless they are kept."""
        if self._index is not None:
            positions = self._index[positions]
        if self._kept is None:
            if self._index is None:
                return Rows(self._read_rows(positions))
            once, place = np.unique(positions, return_inverse=True)
            return Rows(self._read_rows(once), torch.from_numpy(place))
        chosen = to_device(torch.from_numpy(positions), self._kept[0].device)
        return Rows(self._kept, chosen, self._is_pinned)

    def keep(self, tier: Tier, device: torch.device) -> None:
        """Read all rows in the order of the disk, with no more than some blocks twice in memory."""
        self._is_pinned = tier == "memory" and device.type == "cuda"
        place = device if tier == "device" else torch.device("cpu")
        part = np.repeat(np.arange(len(self._parts)), np.diff(self._first))
        disk_order = np.lexsort((np.concatenate([rows for _, rows in self._parts]), part))
        kept: list[Tensor] = []
        with ThreadPoolExecutor(READ_AHEAD, "feed") as threads:
            for positions, reading in read_ahead(
                disk_order, ROWS_AT_ONCE, lambda some: threads.submit(self._read_rows, some)
            ):
                pieces = reading.result()
                if not kept:
                    kept = [
                        piece.new_empty((len(disk_order), *piece.shape[1:]), device=place)
                        for piece in pieces
                    ]
                for tensor, piece in zip(kept, pieces, strict=True):
                    tensor[torch.from_numpy(positions).to(place)] = piece.to(place)
        self._kept = tuple(kept)

    def _read_rows(self, positions: np.ndarray) -> tuple[Tensor, ...]:
        part_of = np.searchsorted(self._first, positions, side="right") - 1
        found = []
        for part in np.unique(part_of).tolist():
            store, rows = self._parts[part]
            places = np.flatnonzero(part_of == part)
            found.append((places, self._read(store, rows[positions[places] - self._first[part]])))
        return tuple(
            in_place([(places, tensors[number]) for places, tensors in found])
            for number in range(len(found[0][1]))
        )


def read_ahead(
    order: np.ndarray, size: int, begin: Callable[[np.ndarray], Begun]
) -> Iterator[tuple[np.ndarray, Begun]]:
    """Yield `order` in parts of `size`, each with what `begin` returned for it.

    `begin` is called `READ_AHEAD` parts ahead.
    """
    waiting: deque[tuple[np.ndarray, Begun]] = deque()
    for start in range(0, len(order), size):
        positions = order[start : start + size]
        waiting.append((positions, begin(positions)))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


def in_place(pieces: Sequence[tuple[np.ndarray, Tensor]]) -> Tensor:
    """Return the rows of several tensors, each with its rows' places, as one tensor in order."""
    if len(pieces) == 1:
        return pieces[0][1]
    total = sum(len(places) for places, _ in pieces)
    whole = pieces[0][1].new_empty((total, *pieces[0][1].shape[1:]))
    for places, rows in pieces:
        whole[torch.from_numpy(places)] = rows
    return whole


def counted_rows(parts: Sequence[tuple[Store, np.ndarray]]) -> str:
    """Return how many images, or tiles of how many images, these rows are, in words."""
    rows = sum(len(some) for _, some in parts)
    images = int(images_of(parts).max()) + 1
    text = f"{images} image{'s' if images > 1 else ''}"
    return text if rows == images else f"{rows} tiles of {text}"


def fed_bytes(parts: Sequence[tuple[Store, np.ndarray]], source: FeatureSource) -> int:
    """Return the bytes that a source's features of these rows take, as they are stored."""
    total = 0
    for store, rows in parts:
        own = source.store_of(store)
        count = len(rows)
        if source.is_at_windows(store):
            count = len(np.unique(source.rows_of(store, rows)))
        total += count * own.bytes_per_row(source.layer)
    return total


def images_of(parts: Sequence[tuple[Store, np.ndarray]]) -> np.ndarray:
    """Return the number of the image that each of these rows belongs to, (N,) int64."""
    found, count = [], 0
    for store, rows in parts:
        images, image_of = whole_images(store.samples.take(rows))
        found.append(image_of + count)
        count += len(images)
    return np.concatenate(found)


def targets_bytes(parts: Sequence[tuple[Store, np.ndarray]], targets: TargetKind = "masks") -> int:
    """Return the bytes that the targets of these rows take."""
    return sum(len(rows) for _, rows in parts) * (TARGET_SIZE**2 if targets == "masks" else 1)


def labels_as_targets(store: Store, rows: np.ndarray) -> Tensor:
    """Return labels of these rows in the numbers of stored masks: (N,) uint8, 255 = fake."""
    return torch.from_numpy(store.labels[rows]).to(torch.uint8) * 255


def _read_features(store: Store, rows: np.ndarray, layer: str, dtype: str) -> tuple[Tensor, ...]:
    features = store.read_layer(layer, rows)
    return features.tensors if features.dtype == dtype else (features.decoded(),)


def _read_targets(store: Store, rows: np.ndarray) -> tuple[Tensor, ...]:
    return (torch.from_numpy(store.read_targets(rows)),)


def _read_labels(store: Store, rows: np.ndarray) -> tuple[Tensor, ...]:
    return (labels_as_targets(store, rows),)
