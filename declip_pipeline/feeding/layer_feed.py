"""One layer of chosen rows, from one store or several, as batches on the device."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.feature_dtype import StoredFeatures, to_device
from declip_pipeline.feeding.tiers import TIERS, choose_tier
from declip_pipeline.store.reader import Store

# Batches being read ahead of the one in use: enough to hide a read behind a training step.
READ_AHEAD = 2
# Rows of one read of many, when a whole layer is read.
ROWS_AT_ONCE = 256


CPU = torch.device("cpu")

# Features and targets as they are stored, and what waits for them.
_Stored = tuple[StoredFeatures, torch.Tensor]
_Reading = Callable[[], _Stored]


@dataclass(frozen=True)
class Batch:
    """`features` (N, *layer shape) float32; `targets` (N, 256, 256) float32, 0 real .. 1 fake;
    `positions` (N,) int64, which of the feed's samples these are."""

    features: torch.Tensor
    targets: torch.Tensor
    positions: np.ndarray


class LayerFeed:
    """Batches of one layer in any order of samples.

    The rows of all stores are numbered 0..len-1 in the order given: a position. `tier` says where
    the layer is kept, as it is stored: on the device or in memory it is read once, in the order of
    the disk; streamed, it is read batch by batch, ahead of its use. All give the same batches.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        layer: str,
        *,
        device: torch.device,
        tier: str = "auto",
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
        self._is_mixed = len({store.identity.dtype for store, _ in self.parts}) > 1
        self.bytes = sum(len(rows) * store.bytes_per_row(layer) for store, rows in self.parts)
        self.tier = choose_tier(self.bytes, device, tier)
        self._resident: tuple[StoredFeatures, torch.Tensor] | None = None
        if self.tier != "stream":
            self._resident = self._read_all(device if self.tier == "device" else CPU)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def description(self) -> str:
        """What is fed and from where, in a line."""
        pictures = f"{len(self)} picture{'s' if len(self) > 1 else ''}"
        return f"{self.layer}: {pictures}, {self.bytes / 1e9:.2f} GB, {TIERS[self.tier]}"

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """The ids of the samples at these positions."""
        part_of = np.searchsorted(self._first, positions, side="right") - 1
        found = []
        for part, position in zip(part_of.tolist(), positions.tolist(), strict=True):
            store, rows = self.parts[part]
            found.append(str(store.samples[rows[position - self._first[part]]]["id"]))
        return found

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at the positions `order` (int64); the last one may be smaller."""
        for positions, (features, targets) in self._read_ahead(order, batch_size, self._begin):
            yield Batch(
                features=features.to(self.device).decoded(),
                targets=to_device(targets, self.device).float() / 255,
                positions=positions,
            )

    def _read_ahead(
        self, order: np.ndarray, batch_size: int, begin: Callable[[np.ndarray], _Reading]
    ) -> Iterator[tuple[np.ndarray, _Stored]]:
        waiting: deque[tuple[np.ndarray, _Reading]] = deque()
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            waiting.append((positions, begin(positions)))
            if len(waiting) > READ_AHEAD:
                positions, reading = waiting.popleft()
                yield positions, reading()
        for positions, reading in waiting:
            yield positions, reading()

    def _read_all(self, place: torch.device) -> _Stored:
        """The whole layer at a place, never more than some blocks of it twice in memory."""
        rows = np.concatenate([rows for _, rows in self.parts])
        part = np.repeat(np.arange(len(self.parts)), [len(rows) for _, rows in self.parts])
        whole: list[torch.Tensor] = []
        dtype = ""
        in_disk_order = np.lexsort((rows, part))
        for positions, (features, targets) in self._read_ahead(
            in_disk_order, ROWS_AT_ONCE, self._begin_from_store
        ):
            dtype = features.dtype
            pieces = [*features.tensors, targets]
            if not whole:
                whole = [
                    torch.empty((len(self), *piece.shape[1:]), dtype=piece.dtype, device=place)
                    for piece in pieces
                ]
            for tensor, piece in zip(whole, pieces, strict=True):
                tensor[torch.from_numpy(positions).to(place)] = piece.to(place)
        *stored, soft = whole
        return StoredFeatures(dtype, *stored), soft

    def _begin(self, positions: np.ndarray) -> _Reading:
        if self._resident is None:
            return self._begin_from_store(positions)
        features, targets = self._resident
        chosen = torch.from_numpy(positions).to(targets.device)
        return lambda: (features[chosen], targets[chosen])

    def _begin_from_store(self, positions: np.ndarray) -> _Reading:
        part_of = np.searchsorted(self._first, positions, side="right") - 1
        reads = []
        for part, (store, all_rows) in enumerate(self.parts):
            places = np.flatnonzero(part_of == part)
            rows = all_rows[positions[places] - self._first[part]]
            if len(rows):
                layer = store.begin_reading_layer(self.layer, rows)
                reads.append((places, layer, store.begin_reading_targets(rows)))

        def finish() -> tuple[StoredFeatures, torch.Tensor]:
            features = [(places, self._of_one_dtype(read())) for places, read, _ in reads]
            targets = [(places, torch.from_numpy(read())) for places, _, read in reads]
            return _features_in_place(features), _in_place(targets)

        return finish

    def _of_one_dtype(self, features: StoredFeatures) -> StoredFeatures:
        """Features as they are stored, or decoded where the stores have several types."""
        return StoredFeatures("float32", features.decoded()) if self._is_mixed else features


def _features_in_place(pieces: list[tuple[np.ndarray, StoredFeatures]]) -> StoredFeatures:
    """Features of several stores, each with their places, as one in order."""
    by_tensor = zip(*(features.tensors for _, features in pieces), strict=True)
    places = [places for places, _ in pieces]
    tensors = [_in_place(list(zip(places, each, strict=True))) for each in by_tensor]
    return StoredFeatures(pieces[0][1].dtype, *tensors)


def _in_place(pieces: list[tuple[np.ndarray, torch.Tensor]]) -> torch.Tensor:
    """Rows of several stores, each with their places, as one tensor in order."""
    if len(pieces) == 1:
        return pieces[0][1]
    total = sum(len(places) for places, _ in pieces)
    whole = pieces[0][1].new_empty((total, *pieces[0][1].shape[1:]))
    for places, rows in pieces:
        whole[torch.from_numpy(places)] = rows
    return whole
