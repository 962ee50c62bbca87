"""A whole store as one HDF5 file: export and import."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from declip_pipeline.files import remove_abandoned, sha256_of_bytes, sha256_of_json, write_with
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5_rows import ARRAY, EXPECTED, MARK, RECORDS
from declip_pipeline.store.identity import store_location
from declip_pipeline.store.local import LocalStorage
from declip_pipeline.store.reader import Store, enclosing_store, is_single_file
from declip_pipeline.store.records import parse_completion
from declip_pipeline.store.schema import DamagedRecordError
from declip_pipeline.store.shards import EncodedShard
from declip_pipeline.store.storage import URL_MARK, Storage, storage_at
from declip_pipeline.store.writer import StoreWriter

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

    Memory holds one array of one shard at a time. `progress(done, total)` counts rows. Raises
    `OutputExistsError` for a file that is there unless `overwrite`, `InputError` for a path that
    cannot be a file, `StorageFullError`, and `StoreError` for a store that is damaged.
    """
    if URL_MARK in str(path):
        raise InputError(f"{path} is a URL; expected a file on a disk, name one")
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file, name one such as {path}.h5")
    inside = enclosing_store(path.parent)
    if inside is not None:
        raise InputError(f"{path} lies in the store {inside}; name a file elsewhere")
    remove_abandoned(path.parent)
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
            dataset = file.create_dataset(
                array.name,
                shape=(store.header.rows, *array.row_shape),
                dtype=np.dtype(array.dtype).newbyteorder("<"),
                chunks=(1, *array.tile),
                fletcher32=True,
                compression=GZIP_LEVEL if array.is_compressed else None,
            )
            # So that arrays whose names were exchanged are not taken for one another.
            dataset.attrs[ARRAY] = array.name
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


_EXPORT_AGAIN = "export it again"


@dataclass(frozen=True)
class Imported:
    """Store that was made of a file.

    `was_there` says whether it was complete before. `is_identical` says whether every file is the
    exported store's byte for byte; where not, its zstd compressed to other bytes than this one.
    """

    location: str
    was_there: bool
    is_identical: bool


def import_store(
    path: str | Path,
    root: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Make the store that was exported to the file `path`, below `root` (a folder or s3:// URL).

    A store that is there is left alone; one that an interrupted import left is finished. Memory
    holds one shard of every array. `progress(done, total)` counts rows. Raises `InputError` when
    `path` is not a file, and `StoreError` when it is not an exported store, or damaged.
    """
    if not is_single_file(path):
        state = "is not a file" if Path(path).exists() else "does not exist"
        raise InputError(f"{path} {state}; expected {EXPECTED}")
    store = Store(path)
    records = read_records(store)
    location = store_location(root, store.dataset, store.identity)
    storage = storage_at(location)
    was_there = storage.exists(fmt.COMPLETE)
    if not was_there:
        _put_records(storage, records)
    writer = StoreWriter(
        location,
        identity=store.identity,
        layers=store.layers,
        dataset=store.dataset,
        provenance=store.provenance,
        samples=store.samples,
        fake_is_white=store.fake_is_white,
    )
    if not was_there:
        pending = writer.pending_shards()
        writer.require_space(pending)
        for shard in pending:
            _import_shard(store, shard, writer)
            if progress is not None:
                progress(store.header.shard_rows(shard).stop, store.header.rows)
        writer.finish()
    is_identical = storage.read(fmt.COMPLETE) == records[fmt.COMPLETE]
    return Imported(location, was_there, is_identical)


def _put_records(storage: Storage, records: Mapping[str, bytes]) -> None:
    """Begin a store with the metadata as they are in the file: manifest first, group last."""
    keys = [key for key in records if not key.startswith(fmt.LEDGER) and key != fmt.COMPLETE]
    with storage.exclusively():
        found = storage.sizes()
        if found and fmt.MANIFEST not in found:
            raise StoreError(f"{storage.location} holds other files; name another `cache`")
        for key in sorted(keys, key=lambda key: (key != fmt.MANIFEST, key == fmt.GROUP, key)):
            if not storage.create(key, records[key]) and storage.read(key) != records[key]:
                raise StoreError(
                    f"{storage.location} holds an unfinished store of another extraction, its "
                    f"{key} differs; finish that with `declip-pipe extract`, or remove it "
                    f"with `declip-pipe cache prune {storage.location} --all`"
                )


def _import_shard(store: Store, shard: int, writer: StoreWriter) -> None:
    entry = store.ledger_entry(shard)
    rows = usable_rows(store, shard)
    arrays = {name: list(row_values(store, name, rows)) for name in store.arrays}
    if sorted(entry.failures) != [row for row in store.header.shard_rows(shard) if row not in rows]:
        raise StoreError(
            f"{store.location}: its {fmt.ledger_key(shard)} has other failures than its "
            f"{fmt.COMPLETE}; {_EXPORT_AGAIN}"
        )
    for name, array in store.arrays.items():
        # Compressed bytes depend on the zstd at work; those rows have their checksums alone.
        if array.is_compressed or not rows:
            continue
        key = array.shard_key(shard)
        if _shard_blake3(store, array, shard, rows, arrays[name]) != entry.files[key].blake3:
            raise StoreError(
                f"{store.location}: the rows of {key} are not those of the ledger, "
                f"their BLAKE3 hash differs; {_EXPORT_AGAIN}"
            )
    writer.write_shard(shard, rows, arrays, entry.failures)


def _shard_blake3(
    store: Store,
    array: fmt.RowArray,
    shard: int,
    rows: Sequence[int],
    values: Sequence[np.ndarray],
) -> str:
    first = store.header.shard_rows(shard).start
    places = [row - first for row in rows]
    mark = store.header.shard_mark(array, shard, store.samples)
    encoded = EncodedShard(array, store.header.rows_per_shard, places, values, mark)
    for _ in encoded:
        pass
    return encoded.blake3


def read_records(store: Store) -> dict[str, bytes]:
    """Every file of a store that is not a shard, byte for byte, by key.

    Raises `StoreError` for one that is missing, or not what `complete.json` says of it.
    """
    remedy = f"run `declip-pipe cache verify {store.location} --repair`"
    if is_single_file(store.location):
        remedy = "export it again"
    blob = store.read_record(fmt.COMPLETE) or b""
    try:
        completion = parse_completion(blob, store.header)
    except DamagedRecordError as error:
        raise StoreError(f"{store.location}: its {fmt.COMPLETE} {error}; {remedy}") from error
    ledger = [fmt.ledger_key(shard) for shard in range(store.header.shards)]
    records: dict[str, bytes] = {}
    for key in [*completion.metadata_sha256, *ledger]:
        found = store.read_record(key)
        if found is None:
            raise StoreError(f"{store.location} lacks its {key}; {remedy}")
        records[key] = found
    digests = {key: sha256_of_bytes(records[key]) for key in records}
    for key, expected in completion.metadata_sha256.items():
        if digests[key] != expected:
            raise StoreError(
                f"{store.location}: its {key} was edited, its SHA-256 is not that in "
                f"{fmt.COMPLETE}; {remedy}"
            )
    if sha256_of_json({key: digests[key] for key in ledger}) != completion.ledger_sha256:
        raise StoreError(
            f"{store.location}: its ledger was edited, its SHA-256 is not that in "
            f"{fmt.COMPLETE}; {remedy}"
        )
    return records | {fmt.COMPLETE: blob}


def usable_rows(store: Store, shard: int) -> list[int]:
    """The rows of a shard that have data."""
    return [row for row in store.header.shard_rows(shard) if row not in store.failures]


def row_values(store: Store, name: str, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows of a sharded array, one by one, masks at the size of their image.

    Masks are read one at a time: large ones take more memory than all else of a shard.
    """
    if name == "masks":
        for row in rows:
            yield store.read_masks(np.asarray([row]))[0]
    elif rows:
        yield from store.read_array(name, np.asarray(rows))
