"""One array of chosen rows of stores: streamed, or read once and kept."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.features import to_device
from declip_pipeline.feeding.tiers import Tier

# Batches being read ahead of the one in use: enough to hide a read behind a training step.
READ_AHEAD = 2
# Rows of one read of many, when a whole array is read.
ROWS_AT_ONCE = 256
CPU = torch.device("cpu")

Reading = TypeVar("Reading")

# What is stored of some rows: one tensor, or a second one with scales.
Stored = tuple[Tensor, ...]
# Begins to read the rows at some positions; calling the result waits for them.
Reader = Callable[[np.ndarray], Callable[[], Stored]]
# A part of the rows that were asked for.
Part = Callable[[slice], Stored]


class Column:
    """Rows at positions 0..count-1 of one array, in any order."""

    def __init__(
        self, read: Reader, disk_order: np.ndarray, tier: Tier, device: torch.device
    ) -> None:
        """`disk_order` is every position (int64), as they lie on the disk.

        At the tiers "device" and "memory" all is read now, in that order.
        """
        self._read = read
        self._whole: Stored | None = None
        # What a GPU takes from pinned memory, the host need not wait for.
        self._is_pinned = tier == "memory" and device.type == "cuda"
        if tier != "stream":
            self._whole = self._read_all(disk_order, device if tier == "device" else CPU)

    def begin(self, positions: np.ndarray) -> Callable[[], Part]:
        """Begin to get these rows; calling the result waits for them."""
        if self._whole is None:
            reading = self._read(positions)

            def finish() -> Part:
                rows = reading()
                return lambda part: tuple(tensor[part] for tensor in rows)

            return finish
        whole = self._whole
        chosen = to_device(torch.from_numpy(positions), whole[0].device)
        return lambda: lambda part: tuple(self._gathered(one, chosen[part]) for one in whole)

    def _gathered(self, tensor: Tensor, rows: Tensor) -> Tensor:
        if not self._is_pinned:
            return tensor[rows]
        pinned = tensor.new_empty((len(rows), *tensor.shape[1:]), pin_memory=True)
        return torch.index_select(tensor, 0, rows, out=pinned)

    def _read_all(self, disk_order: np.ndarray, place: torch.device) -> Stored:
        """All rows at a place, never more than some blocks of them twice in memory."""
        whole: list[Tensor] = []
        for positions, reading in read_ahead(disk_order, ROWS_AT_ONCE, self._read):
            pieces = reading()
            if not whole:
                whole = [
                    torch.empty(
                        (len(disk_order), *piece.shape[1:]), dtype=piece.dtype, device=place
                    )
                    for piece in pieces
                ]
            for tensor, piece in zip(whole, pieces, strict=True):
                tensor[torch.from_numpy(positions).to(place)] = piece.to(place)
        return tuple(whole)


def read_ahead(
    order: np.ndarray, size: int, begin: Callable[[np.ndarray], Reading]
) -> Iterator[tuple[np.ndarray, Reading]]:
    """`order` in parts of `size`, each with what `begin` gave, begun some parts before its turn."""
    waiting: deque[tuple[np.ndarray, Reading]] = deque()
    for start in range(0, len(order), size):
        positions = order[start : start + size]
        waiting.append((positions, begin(positions)))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting


def in_place(pieces: list[tuple[np.ndarray, Tensor]]) -> Tensor:
    """Rows of several stores, each with their places, as one tensor in order."""
    if len(pieces) == 1:
        return pieces[0][1]
    total = sum(len(places) for places, _ in pieces)
    whole = pieces[0][1].new_empty((total, *pieces[0][1].shape[1:]))
    for places, rows in pieces:
        whole[torch.from_numpy(places)] = rows
    return whole
