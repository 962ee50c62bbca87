"""One layer of chosen rows, from one store or several, as batches on the device."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.feature_dtype import StoredFeatures
from declip_pipeline.store.reader import Store

# Batches being read ahead of the one in use: enough to hide a read behind a training step.
READ_AHEAD = 2


# Waits for features and targets as they are stored.
_Reading = Callable[[], tuple[StoredFeatures, torch.Tensor]]


@dataclass(frozen=True)
class Batch:
    """`features` (N, *layer shape) float32; `targets` (N, 256, 256) float32, 0 real .. 1 fake;
    `positions` (N,) int64, which of the feed's samples these are."""

    features: torch.Tensor
    targets: torch.Tensor
    positions: np.ndarray


class LayerFeed:
    """Batches of one layer in any order of samples.

    The rows of all stores are numbered 0..len-1 in the order given: a position. A layer that
    fits into `resident_bytes` is read once and kept in memory; a larger one is read batch by
    batch, ahead of its use. Both give the same batches.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        layer: str,
        *,
        device: torch.device,
        resident_bytes: int = 4_000_000_000,
    ) -> None:
        """`parts` are stores with the rows to take of each. Raises `InputError` if there are none.

        Stores must hold the same features; the caller compares their identities.
        """
        self.parts = list(parts)
        self.layer = layer
        self.device = device
        self._first = np.cumsum([0, *(len(rows) for _, rows in self.parts)])
        if len(self) == 0:
            raise InputError(
                "no fake picture was chosen to be fed; expected at least one, check the split and "
                "the generators"
            )
        self._resident: tuple[StoredFeatures, torch.Tensor] | None = None
        needed = sum(len(rows) * store.bytes_per_row(layer) for store, rows in self.parts)
        if needed <= resident_bytes:
            everything = np.arange(len(self))
            self._resident = self._begin(everything)()

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def is_resident(self) -> bool:
        """Whether the layer is kept in memory."""
        return self._resident is not None

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at the positions `order` (int64); the last one may be smaller."""
        starts = range(0, len(order), batch_size)
        waiting: deque[tuple[np.ndarray, _Reading]] = deque()
        for start in starts:
            positions = order[start : start + batch_size]
            waiting.append((positions, self._begin(positions)))
            if len(waiting) > READ_AHEAD:
                yield self._batch(*waiting.popleft())
        while waiting:
            yield self._batch(*waiting.popleft())

    def _begin(self, positions: np.ndarray) -> _Reading:
        if self._resident is not None:
            features, targets = self._resident
            chosen = torch.from_numpy(positions)
            return lambda: (features[chosen], targets[chosen])
        part_of = np.searchsorted(self._first, positions, side="right") - 1
        reads = []
        for part, (store, all_rows) in enumerate(self.parts):
            places = np.flatnonzero(part_of == part)
            rows = all_rows[positions[places] - self._first[part]]
            if len(rows):
                layer = store.begin_reading_layer(self.layer, rows)
                reads.append((places, layer, store.begin_reading_targets(rows)))

        def finish() -> tuple[StoredFeatures, torch.Tensor]:
            features = [(places, read()) for places, read, _ in reads]
            targets = [(places, torch.from_numpy(read())) for places, _, read in reads]
            return _features_in_place(features), _in_place(targets)

        return finish

    def _batch(self, positions: np.ndarray, reading: _Reading) -> Batch:
        features, targets = reading()
        return Batch(
            features=features.to(self.device).decoded(),
            targets=targets.to(self.device).float() / 255,
            positions=positions,
        )


def _features_in_place(pieces: list[tuple[np.ndarray, StoredFeatures]]) -> StoredFeatures:
    """Features of several stores, each with their places, as one in order."""
    (_, first), *others = pieces
    if not others:
        return first
    if any(piece.dtype != first.dtype for _, piece in pieces):
        decoded = _in_place([(places, piece.decoded()) for places, piece in pieces])
        return StoredFeatures("float32", decoded)
    values = _in_place([(places, piece.values) for places, piece in pieces])
    scales = [(places, piece.scales) for places, piece in pieces if piece.scales is not None]
    return StoredFeatures(first.dtype, values, _in_place(scales) if scales else None)


def _in_place(pieces: list[tuple[np.ndarray, torch.Tensor]]) -> torch.Tensor:
    """Rows of several stores, each with their places, as one tensor in order."""
    if len(pieces) == 1:
        return pieces[0][1]
    total = sum(len(places) for places, _ in pieces)
    whole = pieces[0][1].new_empty((total, *pieces[0][1].shape[1:]))
    for places, rows in pieces:
        whole[torch.from_numpy(places)] = rows
    return whole
