"""Writing a store: shards that appear whole, a ledger entry after each, completion last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.feature_shape import FeatureShape
from declip_pipeline.fingerprint import canonical_json, sha256_of_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.storage import Storage


class StoreWriter:
    """Fills one store, shard by shard, in any order, over as many sessions as it takes.

    What is on disk decides what is left to do: a shard counts once its ledger entry is there, and
    the entry is written after all files of the shard. The bytes depend on the rows' content alone,
    so an interrupted and continued store equals an undisturbed one.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: StoreIdentity,
        layers: Mapping[str, FeatureShape],
        dataset: str,
        provenance: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
        fake_is_white: bool,
        sizes: np.ndarray,
    ) -> None:
        """Open the store at `path` for writing, making it if it is not there.

        `samples` are the manifest's rows as plain JSON, in row order; `sizes` is (N, 2) int32, the
        height and width of each picture in pixels. `provenance` (plain JSON) says where all came
        from and is not part of the identity. Raises `StoreError` when `path` holds something else.
        """
        self.path = path
        self.rows = len(samples)
        self._storage = Storage(path)
        attributes = {
            "format_version": fmt.FORMAT_VERSION,
            "identity": identity.to_json(),
            "identity_sha256": identity.sha256,
            "layers": {name: shape.to_json() for name, shape in layers.items()},
            "dataset": dataset,
            "provenance": dict(provenance),
            "rows": self.rows,
            "rows_per_shard": fmt.ROWS_PER_SHARD,
        }
        labels = np.asarray([sample["label"] for sample in samples], np.int8)
        blobs = fmt.metadata_blobs(
            attributes, layers, identity.dtype, labels, np.asarray(sizes, np.int32)
        )
        self._arrays = {
            key.removesuffix("/zarr.json"): fmt.tensorstore_metadata(blob)
            for key, blob in blobs.items()
            if key.endswith("/zarr.json") and json.loads(blob)["node_type"] == "array"
        }
        for name in ("labels", "sizes"):
            del self._arrays[name]
        existing = self._storage.read(fmt.GROUP)
        if existing is None:
            if path.exists() and any(path.iterdir()) and not self._storage.exists(fmt.MANIFEST):
                raise StoreError(f"{path} holds other files; name an empty or new folder")
            manifest = {"name": dataset, "fake_is_white": fake_is_white, "samples": list(samples)}
            self._storage.write(fmt.MANIFEST, canonical_json(manifest))
            # The group's own metadata comes last: with it, everything else is there.
            for key in sorted(blobs, key=lambda key: (key == fmt.GROUP, key)):
                self._storage.write(key, blobs[key])
        elif _identity_of(existing) != identity.sha256:
            raise StoreError(f"{path} holds another store; pass --overwrite to replace it")

    @property
    def is_complete(self) -> bool:
        """Whether every shard was written and the store was closed."""
        return self._storage.exists(fmt.COMPLETE)

    def pending_shards(self) -> list[int]:
        """Shards without a ledger entry, in row order."""
        return [
            shard
            for shard in range(fmt.shard_count(self.rows))
            if not self._storage.exists(fmt.ledger_key(shard))
        ]

    def shard_rows(self, shard: int) -> range:
        """The rows of a shard."""
        first = shard * fmt.ROWS_PER_SHARD
        return range(first, min(first + fmt.ROWS_PER_SHARD, self.rows))

    def require_space(self) -> None:
        """Raise `StorageFullError` when the disk cannot hold the shards that are pending."""
        rows = sum(len(self.shard_rows(shard)) for shard in self.pending_shards())
        bytes_per_row = sum(
            int(np.prod(metadata["shape"][1:])) * np.dtype(metadata["data_type"]).itemsize
            for name, metadata in self._arrays.items()
            if name.startswith("layers/")
        )
        needed, free = rows * bytes_per_row, self._storage.free_bytes()
        if needed > free:
            raise StorageFullError(
                f"the store needs {needed / 1e6:,.0f} MB for {rows} pictures, "
                f"{free / 1e6:,.0f} MB are free at {self.path}; choose fewer --layers, "
                "another --cache, or free some space"
            )

    def write_shard(
        self,
        shard: int,
        rows: Sequence[int],
        arrays: Mapping[str, Sequence[np.ndarray] | np.ndarray],
        failures: Mapping[int, str],
    ) -> None:
        """Write one shard of every array, then its ledger entry.

        `rows` are the rows that have data, `arrays` maps each array's name to their values in that
        order; those of `masks` may be of different sizes, each that of its picture. `failures` maps
        the other rows to their reasons; they stay absent from every array, so that reading one is
        an error. Raises `StoreError` on non-finite values.
        """
        if sorted([*rows, *failures]) != list(self.shard_rows(shard)):
            raise StoreError(f"shard {shard} must cover rows {self.shard_rows(shard)}")
        if set(arrays) != set(self._arrays):
            raise StoreError(f"shard {shard} has {sorted(arrays)}, expected {sorted(self._arrays)}")
        files = {}
        for name, metadata in self._arrays.items():
            values = arrays[name]
            for row, value in zip(rows, values, strict=True):
                _require_finite(name, value, row)
            key = fmt.shard_key(name, shard, len(metadata["shape"]))
            if not rows:
                continue
            data = _encoded_shard(metadata, key.removeprefix(f"{name}/"), rows, values)
            self._storage.write(key, data)
            files[key] = {"bytes": len(data), "sha256": sha256_of_bytes(data)}
        entry = {
            "shard": shard,
            "rows": [self.shard_rows(shard).start, self.shard_rows(shard).stop],
            "files": files,
            "failures": {str(row): reason for row, reason in failures.items()},
        }
        self._storage.write(fmt.ledger_key(shard), canonical_json(entry))

    def failures(self) -> dict[int, str]:
        """Rows that failed so far, with their reasons, as the ledger has them."""
        found: dict[int, str] = {}
        for shard in range(fmt.shard_count(self.rows)):
            entry = json.loads(self._storage.read(fmt.ledger_key(shard)) or b'{"failures":{}}')
            found |= {int(row): reason for row, reason in entry["failures"].items()}
        return found

    def finish(self) -> None:
        """Declare the store complete.

        Raises `StoreError` when a shard is missing, or when no row at all has data.
        """
        pending = self.pending_shards()
        if pending:
            raise StoreError(f"{self.path} lacks {len(pending)} shards, the first is {pending[0]}")
        failures = self.failures()
        if len(failures) == self.rows:
            self._storage.delete_all()
            raise StoreError(
                f"none of the {self.rows} pictures could be used; the first: {failures[0]}"
            )
        summary = {"rows": self.rows, "failures": {str(row): failures[row] for row in failures}}
        self._storage.write(fmt.COMPLETE, canonical_json(summary))


def _identity_of(group_blob: bytes) -> str | None:
    attributes = json.loads(group_blob).get("attributes", {}).get(fmt.ATTRIBUTES, {})
    found = attributes.get("identity_sha256")
    return found if isinstance(found, str) else None


def _require_finite(name: str, value: np.ndarray, row: int) -> None:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise StoreError(
            f"{name} has a non-finite value in row {row} as {value.dtype}; "
            "use --dtype float32 if it overflows, or check the weights"
        )


def _encoded_shard(
    metadata: dict[str, Any],
    key: str,
    rows: Sequence[int],
    values: Sequence[np.ndarray] | np.ndarray,
) -> bytes:
    """The bytes of one shard, encoded by TensorStore in memory.

    In memory first, so that the same bytes are hashed and written, and the file appears at once.
    """
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "memory"},
            "metadata": metadata,
            "create": True,
            # A row that is all zeros is data, not absence.
            "store_data_equal_to_fill_value": True,
        },
        context=ts.Context(),
    ).result()
    with ts.Transaction() as transaction:
        open_array = array.with_transaction(transaction)
        for row, value in zip(rows, values, strict=True):
            index: Any = (row, *(slice(side) for side in value.shape))
            open_array[index].write(value).result()
    blobs = array.kvstore
    assert blobs is not None, "a zarr3 array always has a key-value store"
    return bytes(blobs.read(key).result().value)
