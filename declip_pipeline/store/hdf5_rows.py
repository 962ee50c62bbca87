"""Rows out of an HDF5 file that `cache export` wrote, checked."""

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Lock

import h5py
import numpy as np
from numcodecs.fletcher32 import Fletcher32

from declip_pipeline.errors import StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.format import RowArray
from declip_pipeline.store.rows import RowSource
from declip_pipeline.store.shards import DamagedChunkError

# The root's attribute whose value is the store's format version.
MARK = "declip_pipe_store"
# An array's attribute whose value is the array's name.
ARRAY = "declip_pipe_array"
RECORDS = "records/"
EXPECTED = "a file that `declip-pipe cache export` wrote"

_FILTERS = {
    False: [h5py.h5z.FILTER_FLETCHER32],
    True: [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32],
}
# What h5py raises where a file is damaged; which of them depends on the place.
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError)


class Hdf5Rows(RowSource):
    """Reads any rows of any array of one file; an absent chunk is an error, never zeros.

    HDF5 does one thing at a time, so one thread does all of it. Chunks are taken as they lie in the
    file and checked here. HDF5's own way to read them takes 1.2 times as long row by row, and 40
    times for a list of rows, and gives zeros for what is absent.
    """

    def __init__(self, path: Path) -> None:
        """Raises `StoreError` unless `path` is an exported store of this format version."""
        self.location = str(path)
        self._file = _open(path)
        self._datasets: dict[str, h5py.Dataset] = {}
        self._lock = Lock()
        self._thread: tuple[int, ThreadPoolExecutor] | None = None
        for key in (fmt.GROUP, fmt.MANIFEST, fmt.COMPLETE):
            if self.read_blob(key) is None:
                raise StoreError(f"{path} lacks its {key}; export it again")

    def read_blob(self, key: str) -> bytes | None:
        """Return the bytes of a record (a ledger entry, the manifest); None where it is absent."""
        try:
            if RECORDS + key not in self._file:
                return None
            dataset = self._dataset(RECORDS + key, "uint8", ())
            return bytes(_content(dataset, (0,), is_compressed=False))
        except (*_HDF5_ERRORS, DamagedChunkError) as error:
            raise StoreError(
                f"{self.location}: its {key} cannot be read, {_reason(error)}; export it again"
            ) from error

    def read_blobs(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of several records."""
        return [self.read_blob(key) for key in keys]

    def begin(
        self, array: RowArray, rows: np.ndarray, window: tuple[int, ...] | None = None
    ) -> Callable[[], np.ndarray]:
        out = np.empty((len(rows), *(window or array.row_shape)), array.dtype)
        reading = self._worker().submit(self._fill, array, rows, out)

        def finish() -> np.ndarray:
            reading.result()
            return out

        return finish

    def _worker(self) -> ThreadPoolExecutor:
        # A thread does not come along into a forked process.
        with self._lock:
            if self._thread is None or self._thread[0] != os.getpid():
                self._thread = os.getpid(), ThreadPoolExecutor(1, "hdf5")
            return self._thread[1]

    def _fill(self, array: RowArray, rows: np.ndarray, out: np.ndarray) -> None:
        corners = product(*(range(count) for count in array.tiles))
        places = [[side * step for side, step in zip(c, array.tile, strict=True)] for c in corners]
        wanted = [starts for starts in places if all(np.less(starts, out.shape[1:]))]
        for k, row in enumerate(rows.tolist()):
            for starts in wanted:
                try:
                    tile = self._tile(array, row, starts)
                except (*_HDF5_ERRORS, DamagedChunkError) as error:
                    raise StoreError(
                        f"{self.location}: row {row} of {array.name} cannot be read, "
                        f"{_reason(error)}; export it again"
                    ) from error
                place = out[k][tuple(slice(start, None) for start in starts)]
                part = tile[tuple(slice(side) for side in place.shape)]
                place[tuple(slice(side) for side in part.shape)] = part

    def _tile(self, array: RowArray, row: int, starts: list[int]) -> np.ndarray:
        dataset = self._dataset(
            array.name, array.dtype, array.row_shape, array.tile, array.is_compressed
        )
        content = _content(dataset, (row, *starts), array.is_compressed, array.tile_bytes)
        if len(content) != array.tile_bytes:
            raise DamagedChunkError(
                f"a chunk has {len(content)} bytes, expected {array.tile_bytes}"
            )
        return np.frombuffer(content, array.dtype).reshape(array.tile)

    def _dataset(
        self,
        name: str,
        dtype: str,
        row_shape: tuple[int, ...],
        tile: tuple[int, ...] | None = None,
        is_compressed: bool = False,
    ) -> h5py.Dataset:
        """An array, once it is known to lie in the file as it should, checksums and all.

        Its chunks are one row each, cut into tiles; or, without `tile`, there is one.
        """
        dataset = self._datasets.get(name)
        if dataset is None:
            dataset = self._file[name]
            if not isinstance(dataset, h5py.Dataset):
                raise DamagedChunkError("it is no array")
            plan = dataset.id.get_create_plist()
            filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
            little_endian = np.dtype(dtype).newbyteorder("<")
            chunks = dataset.shape if tile is None else (1, *tile)
            found = (dataset.dtype, dataset.shape[1:], dataset.chunks, filters)
            if found != (little_endian, row_shape, chunks, _FILTERS[is_compressed]):
                raise DamagedChunkError("it was not written by `declip-pipe cache export`")
            if tile is not None and dataset.attrs.get(ARRAY) != name:
                raise DamagedChunkError(f"it holds the array {dataset.attrs.get(ARRAY)!r}")
            self._datasets[name] = dataset
        return dataset


def _open(path: Path) -> h5py.File:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; check its owner, its mode and the disk"
        ) from error
    if not h5py.is_hdf5(path):
        raise StoreError(f"{path} is not an HDF5 file; expected a store's folder, or {EXPECTED}")
    try:
        file = _unlocked(path)
        version = file.attrs.get(MARK)
    except _HDF5_ERRORS as error:
        raise StoreError(
            f"{path} cannot be opened, {_reason(error)}; it may have been cut short: "
            "copy or export it again"
        ) from error
    if not isinstance(version, np.integer):
        raise StoreError(f"{path} is an HDF5 file of something else; expected {EXPECTED}")
    if version != fmt.FORMAT_VERSION:
        remedy = "upgrade declip-pipe" if version > fmt.FORMAT_VERSION else "export it again"
        raise StoreError(
            f"{path} has store format version {version}, this program reads "
            f"{fmt.FORMAT_VERSION}; {remedy}"
        )
    return file


def _unlocked(path: Path) -> h5py.File:
    """The file, with a lock where it can be had.

    An export appears whole and never changes: a lock adds nothing. But HDF5 opens a file twice in
    one process only with the same setting, and others leave it as it is.
    """
    try:
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        # Of the errors of disks without locks, HDF5 passes over but one.
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


_CHECKSUM = Fletcher32()
_CHECKSUM_BYTES = 4
_WITHOUT_DEFLATE = 1


def _content(
    dataset: h5py.Dataset, offset: tuple[int, ...], is_compressed: bool, most: int = 0
) -> bytes:
    """The values of the chunk at `offset`, inflated to a byte more than `most` at the most.

    Raises `DamagedChunkError` when it is absent.
    """
    try:
        skipped, chunk = dataset.id.read_direct_chunk(offset)
    except _HDF5_ERRORS as error:
        if dataset.id.get_chunk_info_by_coord(offset).byte_offset is None:
            raise DamagedChunkError("it is missing") from error
        raise
    # HDF5 leaves out compression, and tells so, where it fails to make a chunk smaller.
    is_deflated = is_compressed and skipped != _WITHOUT_DEFLATE
    if skipped != (is_compressed and not is_deflated) or len(chunk) < _CHECKSUM_BYTES:
        raise DamagedChunkError("a chunk has no checksum")
    try:
        content: bytes = _CHECKSUM.decode(chunk)
    except RuntimeError as error:
        raise DamagedChunkError("a chunk's checksum differs") from error
    try:
        # A few bytes can stand for gigabytes.
        return zlib.decompressobj().decompress(content, most + 1) if is_deflated else content
    except zlib.error as error:
        raise DamagedChunkError("a chunk cannot be decompressed") from error


def _reason(error: Exception) -> str:
    """The first line of HDF5's errors, which go on over many."""
    lines = str(error.args[0] if error.args else error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
