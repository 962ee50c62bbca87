"""Writing a store: shards that appear whole, a ledger entry after each, completion last."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from blake3 import blake3

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import canonical_json, sha256_of_bytes, sha256_of_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.generations import delete_store
from declip_pipeline.store.header import StoreHeader, parse_header, read_samples
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.records import (
    LedgerEntry,
    ShardFile,
    damaged_record,
    metadata_keys,
    parse_ledger_entry,
)
from declip_pipeline.store.schema import DamagedRecordError
from declip_pipeline.store.shards import EncodedShard, is_finite
from declip_pipeline.store.storage import Prepared, Storage, lacking, storage_at

# Files of one shard being encoded or written at once, beside those of another shard: the processor
# encodes while the disk flushes. More of them get into each other's way (docs/design.md).
WRITING_THREADS = 2
_PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class StoredShard:
    """One array's file of a shard that is stored already: where, and what the ledger there says."""

    storage: Storage
    key: str
    file: ShardFile


class StoreWriter:
    """Fills one store, shard by shard, in any order, over as many sessions as it takes.

    What is stored decides what is left to do: a shard counts once its ledger entry is there, and
    the entry is written after all files of the shard. The bytes depend on the rows' content alone,
    so an interrupted and continued store equals an undisturbed one. Several writers may fill the
    same store: whoever commits a shard first has done it.
    """

    def __init__(
        self,
        location: str,
        *,
        identity: StoreIdentity,
        layers: Mapping[str, FeatureShape],
        dataset: str,
        provenance: Mapping[str, Any],
        samples: Samples,
        fake_is_white: bool,
    ) -> None:
        """Open the store at `location` for writing, making it if it is not there.

        Args:
            location: A folder or an s3:// URL.
            identity: What the store holds.
            layers: Names to shapes, in order of depth.
            dataset: Name of the dataset.
            provenance: Plain JSON, a record.
            samples: With sizes and hashes, in the order that a new store's rows shall have; a
                store that exists keeps its own order, see the attribute `samples`.
            fake_is_white: Which colour of the masks' files marks fake pixels.

        Raises:
            StoreError: When `location` holds something else.
        """
        self.location = location
        self.storage = storage_at(location)
        if len({layer.casefold() for layer in layers}) < len(layers):
            raise StoreError(
                f"of the layers {', '.join(layers)} two differ in capitals alone, and would be one "
                "folder on some disks; rename one, or store them apart"
            )
        if not self.storage.exists(fmt.GROUP):
            header = StoreHeader(
                identity=identity,
                layers=dict(layers),
                dataset=dataset,
                fake_is_white=fake_is_white,
                provenance=dict(provenance),
                rows=len(samples),
                rows_per_shard=fmt.ROWS_PER_SHARD,
            )
            with self.storage.exclusively():
                self._begin(header, samples)
        self._open()
        if self.header.identity.sha256 != identity.sha256:
            raise StoreError(f"{location} holds another store; pass `overwrite=True` to replace it")

    @classmethod
    def reopen(cls, location: str) -> "StoreWriter":
        """The writer of a store that another process has begun, by its location alone.

        Raises `StoreError` when there is none.
        """
        writer = cls.__new__(cls)
        writer.location, writer.storage = location, storage_at(location)
        writer._open()
        return writer

    def _open(self) -> None:
        """Read what is stored: it holds, whoever began it."""
        self.header = parse_header(self.storage.read(fmt.GROUP), self.location)
        self._version = self.storage.version(fmt.MANIFEST)
        manifest = self.storage.read(fmt.MANIFEST)
        self.samples = read_samples(manifest, self.location)
        self.manifest_sha256 = sha256_of_bytes(manifest or b"")
        self.sizes = self.samples.row_sizes
        self.arrays = fmt.row_arrays(self.header.layers, self.header.identity.dtype, self.samples)

    def _begin(self, header: StoreHeader, samples: Samples) -> None:
        """Write all of an empty store: the manifest first, the group's own metadata last."""
        if self.storage.exists(fmt.GROUP):
            return
        if not self.storage.exists(fmt.MANIFEST):
            found = self.storage.sizes()
            if found and fmt.MANIFEST not in found:
                raise StoreError(f"{self.location} holds other files; name an empty or new folder")
            # Of writers that begin at once, the first decides the order of rows.
            self.storage.create(fmt.MANIFEST, samples.to_parquet())
        samples = read_samples(self.storage.read(fmt.MANIFEST), self.location)
        arrays = fmt.row_arrays(header.layers, header.identity.dtype, samples)
        blobs = fmt.metadata_blobs(header.to_json(), arrays, samples)
        group = blobs.pop(fmt.GROUP)
        for key in sorted(blobs):
            self.storage.write(key, [blobs[key]])
        self.storage.create(fmt.GROUP, group)

    @property
    def is_complete(self) -> bool:
        """Return whether every shard was written and the store was closed."""
        return self.storage.exists(fmt.COMPLETE)

    def is_written(self, shard: int) -> bool:
        """Return whether a shard has its ledger entry, by this writer or another."""
        return self.storage.exists(fmt.ledger_key(shard))

    def pending_shards(self) -> list[int]:
        """Shards without a ledger entry, in row order."""
        there = self.storage.sizes(fmt.LEDGER.rstrip("/"))
        return [s for s in range(self.header.shards) if fmt.ledger_key(s) not in there]

    def shard_rows(self, shard: int) -> range:
        """The rows of a shard."""
        return self.header.shard_rows(shard)

    def require_space(
        self, shards: Sequence[int], stored: Mapping[int, Collection[str]] = MappingProxyType({})
    ) -> None:
        """Raise `StorageFullError` when the disk cannot hold the features of these shards.

        `stored` maps shards to the names of those arrays that take no room, being stored already.
        """
        needed = sum(
            len(self.shard_rows(shard)) * array.tile_bytes
            for shard in shards
            for name, array in self.arrays.items()
            if not array.is_compressed and name not in stored.get(shard, ())
        )
        free = self.storage.free_bytes()
        if free is not None and needed > free:
            pictures = sum(len(self.shard_rows(shard)) for shard in shards)
            raise StorageFullError(
                f"the store needs {needed / 1e6:,.0f} MB for {pictures} images, "
                f"{free / 1e6:,.0f} MB are free at {self.location}; choose fewer `layers`, "
                "a smaller `dtype`, another `cache`, or free some space"
            )

    def write_shard(
        self,
        shard: int,
        rows: Sequence[int],
        arrays: Mapping[str, Sequence[np.ndarray]],
        failures: Mapping[int, str],
        stored: Mapping[str, StoredShard] = MappingProxyType({}),
    ) -> None:
        """Write one shard of every array, then its ledger entry.

        `rows` are the rows that have data, `arrays` maps each array's name to their values in that
        order; those of `masks` may be of different sizes, each that of its image. `stored` maps
        the names of the other arrays to files that hold just these rows already. `failures` maps
        the other rows to their reasons; they stay absent from every array, so that reading one is
        an error. Does nothing when another writer was first. Raises `StoreError` on non-finite
        values.
        """
        places = self.shard_rows(shard)
        if sorted([*rows, *failures]) != list(places):
            raise StoreError(f"shard {shard} must cover rows {places}")
        if set(arrays) | set(stored) != set(self.arrays) or set(arrays) & set(stored):
            raise StoreError(
                f"shard {shard} has {sorted([*arrays, *stored])}, expected {sorted(self.arrays)}"
            )
        self._require_own()
        if self.is_written(shard):
            return
        inside = [row - places.start for row in rows]
        prepared: list[Prepared] = []

        def prepare(name: str) -> tuple[str, ShardFile]:
            array, dtype = self.arrays[name], self.header.identity.dtype
            values = _finite(array, arrays[name], rows, dtype)
            mark = self.header.shard_mark(array, shard, self.samples)
            encoded = EncodedShard(array, self.header.rows_per_shard, inside, values, mark)
            key = array.shard_key(shard)
            prepared.append(self.storage.prepare(key, encoded))
            return key, ShardFile(encoded.size, encoded.blake3)

        for name, source in stored.items():
            self._require_whole(shard, self.arrays[name], source)
        try:
            # Before the lock: writers of several shards keep the disk busy together.
            with ThreadPoolExecutor(WRITING_THREADS) as threads:
                files = dict(threads.map(prepare, arrays)) if rows else {}
            linked = {self.arrays[name].shard_key(shard): source for name, source in stored.items()}
            files |= {key: source.file for key, source in linked.items()}
            entry = {
                "shard": shard,
                "rows": [places.start, places.stop],
                "manifest_sha256": self.manifest_sha256,
                "files": {key: asdict(file) for key, file in files.items()},
                "failures": {str(row): reason for row, reason in failures.items()},
            }
            self._commit(shard, prepared, linked, canonical_json(entry))
        finally:
            for one in prepared:
                one.discard()

    def _commit(
        self,
        shard: int,
        prepared: Sequence[Prepared],
        linked: Mapping[str, StoredShard],
        ledger_entry: bytes,
    ) -> None:
        """Put a shard's files in place, then its ledger entry, unless another writer was first."""
        with self._own_store():
            if self.is_written(shard):
                return
            # Threads end before the lock does: what came later could replace another writer's file.
            with ThreadPoolExecutor(WRITING_THREADS) as threads:
                list(threads.map(lambda one: one.place(), prepared))
                # All after the last rename: a file system that keeps a journal writes it once.
                list(threads.map(lambda one: self.storage.flush(one.key), prepared))
            for key, source in linked.items():
                if (source.storage.location, source.key) != (self.location, key):
                    self.storage.link(key, source.storage, source.key)
            self.storage.write(fmt.ledger_key(shard), [ledger_entry])

    def _require_whole(self, shard: int, array: fmt.RowArray, source: StoredShard) -> None:
        """Raise `StoreError` unless a file that is to be shared is what its ledger entry says."""
        if (source.storage.location, source.key) == (self.location, array.shard_key(shard)):
            return  # it stays where it is
        if not source.storage.exists(source.key):
            raise lacking(source.storage, source.key)
        digest, end = blake3(), source.file.bytes
        is_whole = not source.storage.read_part(source.key, end, [np.empty(1, np.uint8)])
        for start in range(0, end, _PIECE_BYTES):
            piece = np.empty(min(_PIECE_BYTES, end - start), np.uint8)
            is_whole = is_whole and source.storage.read_part(source.key, start, [piece])
            digest.update(piece.data)
        if not is_whole or digest.hexdigest() != source.file.blake3:
            raise StoreError(
                f"{source.storage.location}: its {source.key} is damaged, it is not the file in "
                f"the ledger; run `declip-pipe cache verify {source.storage.location} --deep "
                "--repair`"
            )

    @contextmanager
    def _own_store(self) -> Iterator[None]:
        """Keep out other writers; raise `StoreError` where another store is in the place now."""
        self._require_own()
        with self.storage.exclusively(fmt.MANIFEST):
            # Again: the lock was waited for, perhaps on the manifest of a store that has gone.
            self._require_own()
            yield

    def _require_own(self) -> None:
        found = self.storage.version(fmt.MANIFEST)
        if found is None:
            raise StoreError(
                f"{self.location}/{fmt.MANIFEST} has gone while this extraction was at work; check "
                "the disk and run the same command again"
            )
        if found != self._version:
            raise StoreError(
                f"{self.location} was replaced while this extraction was at work, and nothing was "
                "written into what is there now; run the same command again"
            )

    def _ledger(self) -> dict[int, LedgerEntry]:
        """The entries of all shards that are written."""
        keys = [fmt.ledger_key(shard) for shard in range(self.header.shards)]
        found = {}
        for shard, blob in enumerate(self.storage.read_all(keys)):
            try:
                if blob is not None:
                    found[shard] = parse_ledger_entry(
                        blob, shard, self.header, self.manifest_sha256, self.arrays
                    )
            except DamagedRecordError as error:
                raise damaged_record(self.location, keys[shard], error) from error
        return found

    def failures(self) -> dict[int, str]:
        """Rows that failed so far, with their reasons, as the ledger has them."""
        entries = self._ledger().values()
        return {row: reason for entry in entries for row, reason in entry.failures.items()}

    def finish(self) -> None:
        """Declare the store complete.

        Raises `StoreError` when a shard is missing, or when no row at all has data.
        """
        pending = self.pending_shards()
        if pending:
            raise StoreError(
                f"{self.location} lacks {len(pending)} shards, the first is {pending[0]}; "
                "check the disk and run the same command again"
            )
        with self._own_store():
            self.storage.remove_leftovers()
            value = completion(self.storage, self.header, self.failures())
            summary = canonical_json(value)
            is_of_use = len(value["failures"]) < self.header.rows
            # Another writer may have been here first. A complete store is not touched.
            if is_of_use and self.storage.read(fmt.COMPLETE) != summary:
                self.storage.write(fmt.COMPLETE, [summary])
        if not is_of_use:
            delete_store(self.storage)
            raise StoreError(
                f"none of the {self.header.rows} images could be used; the first: "
                f"{value['failures']['0']}"
            )


def completion(
    storage: Storage, header: StoreHeader, failures: Mapping[int, str]
) -> dict[str, Any]:
    """Return the content of `complete.json`, the root of the tree of hashes over a store.

    It covers the metadata and the ledger as they are stored now, and the ledger covers the shards.
    `failures` are those of the ledger.
    """
    ledger = [fmt.ledger_key(shard) for shard in range(header.shards)]
    keys = metadata_keys(header)
    blobs = storage.read_all([*ledger, *keys])
    hashes = {
        key: sha256_of_bytes(blob)
        for key, blob in zip([*ledger, *keys], blobs, strict=True)
        if blob is not None
    }
    return {
        "rows": header.rows,
        "failures": {str(row): why for row, why in failures.items()},
        "ledger_sha256": sha256_of_json({key: hashes.get(key, "") for key in ledger}),
        "metadata_sha256": {key: hashes[key] for key in keys if key in hashes},
    }


def _finite(
    array: fmt.RowArray, values: Iterable[np.ndarray], rows: Iterable[int], dtype: str
) -> Iterator[np.ndarray]:
    """Yield the rows' values, each checked right before its use: so it is read from memory once."""
    for value, row in zip(values, rows, strict=True):
        if not is_finite(array, value):
            raise StoreError(
                f"{array.name} has a non-finite value in row {row} as {dtype}; "
                'use `dtype="float32"` if it overflows, or check the weights'
            )
        yield value
