"""Rows of a store: what gives them, and how they come from shards."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise, product
from threading import Lock

import numpy as np

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import StoreError
from declip_pipeline.store.buffers import BUFFERS
from declip_pipeline.store.format import COMPLETE, RowArray
from declip_pipeline.store.header import StoreHeader
from declip_pipeline.store.shards import (
    ABSENT,
    CHECKSUM_BYTES,
    DamagedChunkError,
    check_chunk,
    decode_tail,
    decode_tile,
    differs,
    tail_bytes,
)
from declip_pipeline.store.storage import Storage, replaced


class RowSource(ABC):
    """The arrays of one store."""

    location: str

    @abstractmethod
    def begin(
        self, array: RowArray, rows: np.ndarray, window: tuple[int, ...] | None = None
    ) -> Callable[[], np.ndarray]:
        """Start to read rows (int64) of an array, in the given order.

        Calling the result waits for (len(rows), *row_shape) in the array's dtype, or, where
        `window` is given, for the part of each row below it: (len(rows), *window). It raises
        `StoreError` for a row that is absent or damaged.
        """


# Rows that lie one behind another are read in one request, as many as have this many bytes: their
# checksums are computed while the processor's caches hold them. The kernel takes 512 rows.
RUN_BYTES = 2 * 2**20
_MOST_RUN_ROWS = 512


class ZarrRows(RowSource):
    """Reads any rows of any array; an absent chunk is an error, never zeros."""

    def __init__(
        self,
        storage: Storage,
        header: StoreHeader,
        samples: Samples,
        failures: Collection[int],
        completion: bytes,
    ) -> None:
        """Read nothing yet.

        Args:
            storage: Where the store lies.
            header: The store's.
            samples: The store's.
            failures: Rows that no array has.
            completion: Content of `complete.json` when the store was opened.
        """
        self.location = storage.location
        self._storage = storage
        self._header = header
        self._samples = samples
        self._failures = failures
        self._completion = completion
        self._rows_per_shard = header.rows_per_shard
        self._indexes: dict[tuple[str, int], np.ndarray] = {}
        self._lock = Lock()
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def begin(
        self, array: RowArray, rows: np.ndarray, window: tuple[int, ...] | None = None
    ) -> Callable[[], np.ndarray]:
        out = BUFFERS.empty((len(rows), *(window or array.row_shape)), array.dtype)
        fill = self._fill_tiled if array.is_compressed else self._fill_plain
        workers = min(self._storage.parallel_reads, len(rows))
        # Neighbours stay together, so that a run of rows is one read.
        bounds = np.linspace(0, len(rows), workers + 1, dtype=int).tolist() if workers else [0]
        futures: list[Future[None]] = [
            self._pool().submit(fill, array, rows[start:stop], out[start:stop])
            for start, stop in pairwise(bounds)
        ]

        def finish() -> np.ndarray:
            for future in futures:
                future.result()
            return out

        return finish

    def _pool(self) -> ThreadPoolExecutor:
        # Threads do not come along into a forked process.
        with self._lock:
            if self._threads is None or self._threads[0] != os.getpid():
                pool = ThreadPoolExecutor(self._storage.parallel_reads, "store")
                self._threads = os.getpid(), pool
            return self._threads[1]

    def _fill_plain(self, array: RowArray, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows without compression come straight into their places."""
        flat = list(out.reshape(len(rows), -1).view(np.uint8))
        checksums = list(np.empty((len(rows), CHECKSUM_BYTES), np.uint8))
        read, size = self._storage.read_part, array.tile_bytes + CHECKSUM_BYTES
        for key, first, last, offset in self._runs(array, rows.tolist(), size):
            buffers = [part for k in range(first, last) for part in (flat[k], checksums[k])]
            if not read(key, offset, buffers):
                raise self._error(array, int(rows[first]), "its shard is missing or cut short")
            for k in range(first, last):
                if differs(flat[k], checksums[k]):
                    raise self._error(array, int(rows[k]), "a chunk's checksum differs")

    def _runs(
        self, array: RowArray, rows: list[int], size: int
    ) -> Iterator[tuple[str, int, int, int]]:
        """Rows that lie one behind another: (key, first, last + 1, offset), places in `rows`.

        `size` is that of a chunk with its checksum.
        """
        most = min(max(1, RUN_BYTES // size), _MOST_RUN_ROWS)
        start, run_shard, run_offset, expected = 0, -1, 0, -1
        for k, row in enumerate(rows):
            shard, chunks = self._place(array, row)
            offset, length = chunks[0].tolist()
            if offset == ABSENT:
                raise self._error(array, row, "it is missing")
            if length != size:
                raise self._error(array, row, "a chunk's length differs")
            if shard != run_shard or offset != expected or k - start == most:
                if k:
                    yield array.shard_key(run_shard), start, k, run_offset
                start, run_shard, run_offset = k, shard, offset
            expected = offset + size
        if rows:
            yield array.shard_key(run_shard), start, len(rows), run_offset

    def _fill_tiled(self, array: RowArray, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows of compressed tiles; `out` may be a window that is smaller than a row."""
        corners = list(product(*(range(count) for count in array.tiles)))
        for k, row in enumerate(rows):
            shard, chunks = self._place(array, int(row))
            for corner, (offset, length) in zip(corners, chunks.tolist(), strict=True):
                starts = np.multiply(corner, array.tile)
                if (starts >= out.shape[1:]).any():
                    continue
                if offset == ABSENT:
                    raise self._error(array, int(row), "it is missing")
                chunk = np.empty(length, np.uint8)
                if not self._storage.read_part(array.shard_key(shard), offset, [chunk]):
                    raise self._error(array, int(row), "its shard is missing or cut short")
                try:
                    tile = decode_tile(array, check_chunk(chunk))
                except DamagedChunkError as error:
                    raise self._error(array, int(row), str(error)) from error
                place = out[k][tuple(slice(s, None) for s in starts)]
                part = tile[tuple(slice(side) for side in place.shape)]
                place[tuple(slice(side) for side in part.shape)] = part

    def _place(self, array: RowArray, row: int) -> tuple[int, np.ndarray]:
        """A row's shard, and (offset, bytes) of its chunks within it."""
        shard, place = divmod(row, self._rows_per_shard)
        index = self._indexes.get((array.name, shard))
        if index is None:
            length = tail_bytes(array, self._rows_per_shard)
            blob = self._storage.read_tail(array.shard_key(shard), length)
            if blob is None:
                raise self._error(array, row, "its shard is missing")
            mark = self._header.shard_mark(array, shard, self._samples)
            try:
                index = decode_tail(array, self._rows_per_shard, blob, mark)
            except DamagedChunkError as error:
                raise self._error(array, row, str(error)) from error
            self._require_rows(array, shard, index)
            self._indexes[array.name, shard] = index
        return shard, index[place]

    def _require_rows(self, array: RowArray, shard: int, index: np.ndarray) -> None:
        """Raise `StoreError` unless a shard lacks just the rows that failed."""
        is_there = (index[..., 0] != ABSENT).any(axis=1).tolist()
        for row, has_data in zip(self._header.shard_rows(shard), is_there, strict=False):
            if has_data == (row in self._failures):
                what = f"{COMPLETE} says that it failed" if has_data else "it is missing"
                raise self._error(array, row, what)

    def _error(self, array: RowArray, row: int, reason: str) -> StoreError:
        if self._storage.read(COMPLETE) != self._completion:
            return replaced(self.location)
        return StoreError(
            f"{self.location}: row {row} of {array.name} cannot be read, {reason}; "
            f"run `declip-pipe cache verify {self.location} --deep --repair`"
        )
