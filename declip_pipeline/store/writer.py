"""Writing a store: shards that appear whole, a ledger entry after each, completion last."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np

from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.feature_shape import FeatureShape
from declip_pipeline.fingerprint import canonical_json, sha256_of_bytes, sha256_of_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader, parse_header
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.shards import Buffer, encode_shard
from declip_pipeline.store.storage import Storage, storage_at


@dataclass(frozen=True)
class ShardFile:
    """One array's file of a shard, as the ledger has it."""

    bytes: int
    sha256: str


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
        samples: Sequence[Mapping[str, Any]],
        fake_is_white: bool,
        sizes: np.ndarray,
    ) -> None:
        """Open the store at `location` for writing, making it if it is not there.

        `samples` are the manifest's rows as plain JSON with `image_sha256` and `mask_sha256`, in
        the order that a new store's rows shall have; one that is there keeps its own, see
        `samples`. `sizes` is (N, 2) int32, the height and width of each picture in pixels, in that
        order. `provenance` (plain JSON) is a record. Raises `StoreError` when `location` holds
        something else.
        """
        self.location = location
        self.storage = storage_at(location)
        blob = self.storage.read(fmt.GROUP)
        if blob is not None:
            found = parse_header(blob, location).identity.sha256
            if found != identity.sha256:
                raise StoreError(f"{location} holds another store; pass --overwrite to replace it")
        elif not self.storage.exists(fmt.MANIFEST):
            if self.storage.sizes():
                raise StoreError(f"{location} holds other files; name an empty or new folder")
            # Two writers that begin at once must agree on the order of rows: the first decides.
            self.storage.create(
                fmt.MANIFEST,
                canonical_json({"fake_is_white": fake_is_white, "samples": list(samples)}),
            )
        manifest = json.loads(self.storage.read(fmt.MANIFEST) or b"{}")
        size_of = {
            sample["id"]: size for sample, size in zip(samples, np.asarray(sizes), strict=True)
        }
        self.samples: list[dict[str, Any]] = manifest["samples"]
        self.sizes = np.asarray([size_of[sample["id"]] for sample in self.samples], np.int32)
        self.header = StoreHeader(
            identity=identity,
            layers=dict(layers),
            dataset=dataset,
            provenance=dict(provenance),
            rows=len(self.samples),
            rows_per_shard=fmt.ROWS_PER_SHARD,
        )
        self.arrays = fmt.row_arrays(layers, identity.dtype, self.sizes)
        self._hasher = ThreadPoolExecutor(1)
        if blob is None:
            blobs = self._metadata_blobs()
            # The group's own metadata comes last: with it, everything else is there.
            for key in sorted(blobs, key=lambda key: (key == fmt.GROUP, key)):
                self.storage.write(key, [blobs[key]])

    def _metadata_blobs(self) -> dict[str, bytes]:
        labels = np.asarray([sample["label"] for sample in self.samples], np.int8)
        return fmt.metadata_blobs(self.header.to_json(), self.arrays, labels, self.sizes)

    @property
    def is_complete(self) -> bool:
        """Whether every shard was written and the store was closed."""
        return self.storage.exists(fmt.COMPLETE)

    def is_written(self, shard: int) -> bool:
        """Whether a shard has its ledger entry, by this writer or another."""
        return self.storage.exists(fmt.ledger_key(shard))

    def pending_shards(self) -> list[int]:
        """Shards without a ledger entry, in row order."""
        return [shard for shard in range(self.header.shards) if not self.is_written(shard)]

    def shard_rows(self, shard: int) -> range:
        """The rows of a shard."""
        return self.header.shard_rows(shard)

    def require_space(self, shards: Iterable[int]) -> None:
        """Raise `StorageFullError` when the disk cannot hold the features of these shards."""
        rows = sum(len(self.shard_rows(shard)) for shard in shards)
        bytes_per_row = sum(
            array.tile_bytes for array in self.arrays.values() if not array.is_compressed
        )
        needed, free = rows * bytes_per_row, self.storage.free_bytes()
        if free is not None and needed > free:
            raise StorageFullError(
                f"the store needs {needed / 1e6:,.0f} MB for {rows} pictures, "
                f"{free / 1e6:,.0f} MB are free at {self.location}; choose fewer --layers, "
                "a smaller --dtype, another --cache, or free some space"
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
        order; those of `masks` may be of different sizes, each that of its picture. `stored` maps
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
        encoded: dict[str, list[Buffer]] = {}
        for name, values in arrays.items():
            for row, value in zip(rows, values, strict=True):
                _require_finite(name, value, row, self.header.identity.dtype)
            if rows:
                encoded[name] = encode_shard(
                    self.arrays[name],
                    self.header.rows_per_shard,
                    [row - places.start for row in rows],
                    values,
                )
        files = {}
        with self.storage.exclusively():
            if self.is_written(shard):
                return
            for name, pieces in encoded.items():
                key = self.arrays[name].shard_key(shard)
                files[key] = self._written(key, pieces)
            for name, source in stored.items():
                key = self.arrays[name].shard_key(shard)
                if (source.storage.location, source.key) != (self.location, key):
                    self.storage.link(key, source.storage, source.key)
                files[key] = source.file
            entry = {
                "shard": shard,
                "rows": [places.start, places.stop],
                "samples_sha256": samples_sha256([self.samples[row] for row in places]),
                "files": {key: asdict(file) for key, file in files.items()},
                "failures": {str(row): reason for row, reason in failures.items()},
            }
            self.storage.write(fmt.ledger_key(shard), [canonical_json(entry)])

    def _written(self, key: str, pieces: list[Buffer]) -> ShardFile:
        """Write one file, hashing it meanwhile."""
        digest = self._hasher.submit(_sha256_of_pieces, pieces)
        self.storage.write(key, pieces)
        return ShardFile(sum(len(piece) for piece in pieces), digest.result())

    def failures(self) -> dict[int, str]:
        """Rows that failed so far, with their reasons, as the ledger has them."""
        found: dict[int, str] = {}
        for shard in range(self.header.shards):
            entry = json.loads(self.storage.read(fmt.ledger_key(shard)) or b'{"failures":{}}')
            found |= {int(row): reason for row, reason in entry["failures"].items()}
        return found

    def finish(self) -> None:
        """Declare the store complete.

        Raises `StoreError` when a shard is missing, or when no row at all has data.
        """
        pending = self.pending_shards()
        if pending:
            raise StoreError(
                f"{self.location} lacks {len(pending)} shards, the first is {pending[0]}"
            )
        failures = self.failures()
        if len(failures) == self.header.rows:
            self.storage.delete_all()
            raise StoreError(
                f"none of the {self.header.rows} pictures could be used; the first: {failures[0]}"
            )
        with self.storage.exclusively():
            self.storage.remove_leftovers()
            summary = completion(self.storage, self.header)
            self.storage.write(fmt.COMPLETE, [canonical_json(summary)])


def samples_sha256(samples: Sequence[Mapping[str, Any]]) -> str:
    """What a ledger entry says of the samples of its rows, in row order: 64 hex digits."""
    return sha256_of_json(list(samples))


def completion(storage: Storage, header: StoreHeader) -> dict[str, Any]:
    """What `complete.json` says: the root of the tree of hashes over all of a store.

    It covers the metadata and the ledger as they are stored now, and the ledger covers the shards.
    """
    ledger: dict[str, bytes] = {}
    failures: dict[str, str] = {}
    for shard in range(header.shards):
        key = fmt.ledger_key(shard)
        ledger[key] = storage.read(key) or b"{}"
        failures |= json.loads(ledger[key]).get("failures", {})
    return {
        "rows": header.rows,
        "failures": failures,
        "ledger_sha256": sha256_of_json({key: sha256_of_bytes(ledger[key]) for key in ledger}),
        "metadata_sha256": {
            key: sha256_of_bytes(storage.read(key) or b"")
            for key in metadata_keys(storage.sizes(), header)
        },
    }


def metadata_keys(keys: Iterable[str], header: StoreHeader) -> list[str]:
    """Those of a store's keys that are neither shards, nor the ledger, nor its completion."""
    sharded = [fmt.layer_key(layer) for layer in header.layers]
    sharded += [fmt.scales_key(layer) for layer in header.layers]
    sharded += ["targets", "thumbnails", "masks"]
    chunks = tuple(f"{name}/c" for name in sharded)
    return [
        key
        for key in keys
        if key != fmt.COMPLETE and not key.startswith(fmt.LEDGER) and not key.startswith(chunks)
    ]


def _sha256_of_pieces(pieces: Sequence[Buffer]) -> str:
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


# Of bfloat16, kept as its bits: all ones in the exponent is an infinity or not a number.
_BFLOAT16_EXPONENT = 0x7F80


def _require_finite(name: str, value: np.ndarray, row: int, dtype: str) -> None:
    if value.dtype.kind == "f":
        finite = bool(np.isfinite(value).all())
    elif value.dtype == np.uint16:
        finite = not ((value & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any()
    else:
        return
    if not finite:
        raise StoreError(
            f"{name} has a non-finite value in row {row} as {dtype}; "
            "use --dtype float32 if it overflows, or check the weights"
        )
