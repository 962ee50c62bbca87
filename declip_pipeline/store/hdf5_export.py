"""A whole store as one HDF5 file, with the same arrays, rows and records."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import h5py
import numpy as np

from declip_pipeline.errors import (
    InputError,
    OutputExistsError,
    StorageFullError,
    StoreError,
)
from declip_pipeline.files import write_with
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5_rows import MARK, RECORDS
from declip_pipeline.store.local_storage import LocalStorage
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import URL_MARK
from declip_pipeline.store.store_contents import read_records, row_values, usable_rows

# Since HDF5 1.10 (2016), which is the first whose own metadata have checksums throughout.
HDF5_VERSIONS = ("v110", "v110")
# Targets, masks and thumbnails of photographs, in KB and ms a row to write: level 1 gives 42.8 in
# 1.2, level 4 41.0 in 1.9, level 9 39.5 in 7.0; a layer of ViT-L/14 has 526 KB.
GZIP_LEVEL = 4


def export_store(
    store: Store,
    path: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all of `store` into one HDF5 file at `path`, whole or not at all.

    Memory holds one array of one shard at a time. `progress` is told rows done, and all. Raises
    `OutputExistsError` for a file that is there unless `overwrite`, `InputError` for a path that
    cannot be a file, `StorageFullError`, and `StoreError` for a store that is damaged.
    """
    if URL_MARK in str(path):
        raise InputError(f"{path} is a URL; expected a file on a disk, name one")
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file, name one such as {path}.h5")
    if path.exists() and not overwrite:
        raise OutputExistsError(
            f"{path} exists; pass `overwrite=True` to replace it, or name another"
        )
    _require_space(store, path)
    records = read_records(store)
    try:
        write_with(path, lambda partial: _write_file(partial, store, records, progress))
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; check its folder, or name another"
        ) from error


def _require_space(store: Store, path: Path) -> None:
    plain = [array.tile_bytes for array in store.arrays.values() if not array.is_compressed]
    needed = sum(plain) * (store.header.rows - len(store.failures))
    free = LocalStorage(path.absolute().parent).free_bytes()
    if needed > free:
        raise StorageFullError(
            f"{path} needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free there; "
            "name a file on another disk, or free some space"
        )


class _Sink(FileIO):
    """A file that HDF5 writes to, which never tells it of a failure: the process would crash.

    HDF5 keeps what it could not write, tries again as it ends, and dies of that. So `failure`
    keeps the error, and all that comes after it goes nowhere.
    """

    failure: BaseException | None = None

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.failure is None:
                super().truncate(size)
        except OSError as error:
            self.failure = error
        return size or 0

    def require_success(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.failure is not None:
            raise self.failure


def _write_file(
    path: Path,
    store: Store,
    records: Mapping[str, bytes],
    progress: Callable[[int, int], None] | None,
) -> None:
    # In a thread of its own: Ctrl-C is answered in the main one, and must not come in between
    # HDF5 and its file either.
    with _Sink(path, "w+") as sink, ThreadPoolExecutor(1, "hdf5") as thread:
        writing = thread.submit(_fill, sink, store, records, progress)
        try:
            writing.result()
        except BaseException as error:
            sink.failure = sink.failure or error  # which ends the thread, if it still runs
            raise


def _fill(
    sink: _Sink,
    store: Store,
    records: Mapping[str, bytes],
    progress: Callable[[int, int], None] | None,
) -> None:
    # Chunks are written once and whole: nothing is to be kept of them.
    with h5py.File(sink, "w", libver=HDF5_VERSIONS, rdcc_nbytes=0) as file:
        file.attrs[MARK] = fmt.FORMAT_VERSION
        for key, blob in records.items():
            _put(file, RECORDS + key, np.frombuffer(blob, np.uint8))
        _put(file, fmt.LABELS, store.labels)
        _put(file, fmt.SIZES, store.sizes)
        for array in store.arrays.values():
            file.create_dataset(
                array.name,
                shape=(store.header.rows, *array.row_shape),
                dtype=np.dtype(array.dtype).newbyteorder("<"),
                chunks=(1, *array.tile),
                fletcher32=True,
                compression=GZIP_LEVEL if array.is_compressed else None,
            )
        for shard in range(store.header.shards):
            rows = usable_rows(store, shard)
            for name in store.arrays:
                dataset = file[name]
                values = row_values(store, name, rows)
                for row, value in zip(rows, values, strict=True):
                    dataset[(row, *map(slice, value.shape))] = value
                    sink.require_success()
            if progress is not None:
                progress(store.header.shard_rows(shard).stop, store.header.rows)
    sink.require_success()


def _put(file: h5py.File, name: str, values: np.ndarray) -> None:
    dtype = values.dtype.newbyteorder("<")
    file.create_dataset(name, data=values, dtype=dtype, chunks=values.shape, fletcher32=True)
