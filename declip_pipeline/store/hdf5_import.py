"""The store out of an HDF5 file that `cache export` wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5_rows import EXPECTED
from declip_pipeline.store.identity import store_location
from declip_pipeline.store.reader import Store, is_single_file
from declip_pipeline.store.records_verification import DamagedRecordError, parse_ledger_entry
from declip_pipeline.store.shards import encode_shard
from declip_pipeline.store.storage import Storage, storage_at
from declip_pipeline.store.store_contents import read_records, row_values, usable_rows
from declip_pipeline.store.writer import StoreWriter

_EXPORT_AGAIN = "export it again"


@dataclass(frozen=True)
class Imported:
    """Where the store of a file lies now.

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
    holds one shard of every array. `progress` is told rows done, and all. Raises `InputError` when
    `path` is not a file, and `StoreError` when it is not an exported store, or damaged.
    """
    if not is_single_file(path):
        state = "is not a file" if Path(path).exists() else "does not exist"
        raise InputError(f"{path} {state}; expected {EXPECTED}")
    store = Store(path)
    records = read_records(store)
    _require_names_within(store, records)
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
            _import_shard(store, shard, records[fmt.ledger_key(shard)], writer)
            if progress is not None:
                progress(store.header.shard_rows(shard).stop, store.header.rows)
        writer.finish()
    is_identical = storage.read(fmt.COMPLETE) == records[fmt.COMPLETE]
    return Imported(location, was_there, is_identical)


def _require_names_within(store: Store, records: Mapping[str, bytes]) -> None:
    """Refuse names that would lead out of the store's folder: a file may come from anyone."""
    for name in (store.identity.view, *records, *store.arrays):
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(
                f"{store.location} holds the name {name!r}, which leads out of a store; "
                f"expected {EXPECTED}"
            )


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


def _import_shard(store: Store, shard: int, ledger_entry: bytes, writer: StoreWriter) -> None:
    try:
        entry = parse_ledger_entry(
            ledger_entry, shard, store.header, writer.manifest_sha256, store.arrays
        )
    except DamagedRecordError as error:
        raise StoreError(
            f"{store.location}: its {fmt.ledger_key(shard)} {error}; {_EXPORT_AGAIN}"
        ) from error
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
    return encode_shard(array, store.header.rows_per_shard, places, values).blake3
