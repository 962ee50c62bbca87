"""Chosen rows of stores as batches on the device: features of one layer or several, and targets."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.errors import InputError
from declip_pipeline.features import StoredFeatures
from declip_pipeline.feeding.batch import Batch, Features, Targets
from declip_pipeline.feeding.column import Column, Part, Stored, in_place, read_ahead
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.feeding.tiers import TIERS, choose_tier
from declip_pipeline.store.format import TARGET_SIZE
from declip_pipeline.store.reader import Store

TargetKind = Literal["masks", "labels"]
"""What decoders learn from: which pixels are fake, or only which pictures."""


class Feed:
    """Batches in any order of samples.

    The rows of all stores are numbered 0..len-1 in the order given: a position. `tier` says where
    features are kept, as they are stored: on the device or in memory they are read once, in the
    order of the disk; streamed, they are read batch by batch, ahead of their use. All give the same
    batches.
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
        """`parts` are stores with the rows to take of each.

        Stores must hold the same features; the caller compares their identities. Raises
        `InputError` if there are no rows, or a source has not all of their pictures.
        """
        self.parts = [(store, np.asarray(rows)) for store, rows in parts]
        self.sources = tuple(dict.fromkeys(sources))
        self.device = device
        self._first = np.cumsum([0, *(len(rows) for _, rows in self.parts)])
        if len(self) == 0:
            raise InputError(
                "no fake picture was chosen to be fed; expected at least one, check the split and "
                "the generators"
            )
        self.bytes = targets_bytes(self.parts, targets) + sum(
            fed_bytes(self.parts, source) for source in self.sources
        )
        self.tier = choose_tier(self.bytes, device, tier)
        self._dtypes = {source: self._dtype_of(source) for source in self.sources}
        self._columns = {source: self._column(source) for source in self.sources}
        rows = [rows for _, rows in self.parts]
        stores = [store for store, _ in self.parts]
        read = _read_targets if targets == "masks" else _read_labels
        self._targets = self._column_of(stores, rows, read)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def description(self) -> str:
        """What is fed and from where, in a line."""
        pictures = f"{len(self)} picture{'s' if len(self) > 1 else ''}"
        layers = ", ".join(source.layer for source in self.sources)
        return f"{layers}: {pictures}, {self.bytes / 1e9:.2f} GB, {TIERS[self.tier]}"

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """The ids of the samples at these positions."""
        return [
            store.samples[rows[positions[place] - first]].id
            for place in range(len(positions))
            for store, rows, first in [self._part_at(positions[place])]
        ]

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at the positions `order` (int64); the last one may be smaller."""
        for positions, (features, targets) in read_ahead(order, batch_size, self._begin):
            yield Batch(
                positions,
                self.device,
                {
                    source: _as_features(self._dtypes[source], reading())
                    for source, reading in features.items()
                },
                _as_targets(targets()),
            )

    def _begin(
        self, positions: np.ndarray
    ) -> tuple[dict[FeatureSource, Callable[[], Part]], Callable[[], Part]]:
        features = {source: column.begin(positions) for source, column in self._columns.items()}
        return features, self._targets.begin(positions)

    def _part_at(self, position: int) -> tuple[Store, np.ndarray, int]:
        part = int(np.searchsorted(self._first, position, side="right")) - 1
        return (*self.parts[part], int(self._first[part]))

    def _dtype_of(self, source: FeatureSource) -> str:
        """What a source's features are stored as; float32 where its stores have several types."""
        dtypes = {source.store_of(store).identity.dtype for store, _ in self.parts}
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    def _column(self, source: FeatureSource) -> Column:
        stores = [source.store_of(store) for store, _ in self.parts]
        rows = [source.rows_of(store, rows) for store, rows in self.parts]
        read = partial(_read_features, layer=source.layer, dtype=self._dtypes[source])
        return self._column_of(stores, rows, read)

    def _column_of(
        self,
        stores: Sequence[Store],
        rows: Sequence[np.ndarray],
        read: Callable[[Store, np.ndarray], Callable[[], Stored]],
    ) -> Column:
        def begin(positions: np.ndarray) -> Callable[[], Stored]:
            part_of = np.searchsorted(self._first, positions, side="right") - 1
            reads = []
            for part, (store, all_rows) in enumerate(zip(stores, rows, strict=True)):
                places = np.flatnonzero(part_of == part)
                if len(places):
                    chosen = all_rows[positions[places] - self._first[part]]
                    reads.append((places, read(store, chosen)))

            def finish() -> Stored:
                found = [(places, reading()) for places, reading in reads]
                count = len(found[0][1])
                return tuple(
                    in_place([(places, tensors[n]) for places, tensors in found])
                    for n in range(count)
                )

            return finish

        part = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        disk_order = np.lexsort((np.concatenate(list(rows)), part))
        return Column(begin, disk_order, self.tier, self.device)


def fed_bytes(parts: Sequence[tuple[Store, np.ndarray]], source: FeatureSource) -> int:
    """Bytes that a source's features of these rows take, as they are stored."""
    return sum(
        len(rows) * source.store_of(store).bytes_per_row(source.layer) for store, rows in parts
    )


def targets_bytes(parts: Sequence[tuple[Store, np.ndarray]], targets: TargetKind = "masks") -> int:
    """Bytes that the targets of these rows take."""
    return sum(len(rows) for _, rows in parts) * (TARGET_SIZE**2 if targets == "masks" else 1)


def labels_as_targets(store: Store, rows: np.ndarray) -> Tensor:
    """Labels of these rows in the numbers of stored masks: (N,) uint8, 255 = fake, 0 = real."""
    return torch.from_numpy(store.labels[rows]).to(torch.uint8) * 255


def _read_features(store: Store, rows: np.ndarray, layer: str, dtype: str) -> Callable[[], Stored]:
    reading = store.begin_reading_layer(layer, rows)

    def finish() -> Stored:
        features = reading()
        return features.tensors if features.dtype == dtype else (features.decoded(),)

    return finish


def _read_targets(store: Store, rows: np.ndarray) -> Callable[[], Stored]:
    reading = store.begin_reading_targets(rows)
    return lambda: (torch.from_numpy(reading()),)


def _read_labels(store: Store, rows: np.ndarray) -> Callable[[], Stored]:
    return lambda: (labels_as_targets(store, rows),)


def _as_features(dtype: str, rows: Part) -> Features:
    return lambda part: StoredFeatures(dtype, *rows(part))


def _as_targets(rows: Part) -> Targets:
    def targets(part: slice) -> Tensor:
        return rows(part)[0]

    return targets
