"""Checks of the records of a store: completion, manifest, ledger, metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError
from declip_pipeline.files import canonical_json, sha256_of_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader
from declip_pipeline.store.identity import manifest_sha256
from declip_pipeline.store.storage import Storage
from declip_pipeline.store.writer import ShardFile


class DamagedRecordError(Exception):
    """A record is not what it should be; the message says how that was seen."""


@dataclass(frozen=True)
class Completion:
    """`complete.json`, whose fields have the right types at least."""

    rows: int
    failures: dict[int, str]
    ledger_sha256: str
    metadata_sha256: dict[str, str]


@dataclass(frozen=True)
class LedgerEntry:
    """Ledger entry of a shard: files by key, failed rows with their reasons."""

    files: dict[str, ShardFile]
    failures: dict[int, str]


@dataclass(frozen=True)
class Layout:
    """Files that a store should have besides its shards, and those that are wrong.

    `header` is corrected where another record contradicts it. `is_certain` says whether nothing is
    in doubt that says how shards are laid out. `arrays` are the sharded arrays by name; `keys`
    every file but shards, ledger and completion; `wrong` maps those of them that are damaged to
    how that was seen.
    """

    header: StoreHeader
    is_certain: bool
    arrays: dict[str, fmt.RowArray]
    keys: set[str]
    wrong: dict[str, str]


def parse_completion(blob: bytes) -> Completion:
    """The content of `complete.json`. Raises `DamagedRecordError`."""
    try:
        value = json.loads(blob)
        found = Completion(
            rows=int(value["rows"]),
            failures={int(row): str(reason) for row, reason in value["failures"].items()},
            ledger_sha256=str(value["ledger_sha256"]),
            metadata_sha256=dict(value["metadata_sha256"]),
        )
        is_canonical = blob == canonical_json(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecordError(f"is damaged ({_reason(error)})") from error
    if not is_canonical:
        raise DamagedRecordError("was edited, it is no canonical JSON any more")
    return found


def parse_manifest(blob: bytes | None, header: StoreHeader, recorded: str | None) -> Samples:
    """Return the samples in row order.

    Raises `DamagedRecordError` unless they are the identity's, and the file's SHA-256 is the
    `recorded` one of the completion, if there is one.
    """
    if blob is None:
        raise DamagedRecordError("is missing")
    if recorded is not None and sha256_of_bytes(blob) != recorded:
        raise DamagedRecordError(
            f"was edited or damaged, its SHA-256 is not that in {fmt.COMPLETE}"
        )
    try:
        samples = Samples.from_parquet(blob)
    except InputError as error:
        raise DamagedRecordError(f"is damaged ({error})") from error
    if manifest_sha256(header.fake_is_white, samples) != header.identity.manifest_sha256:
        raise DamagedRecordError("was edited, its SHA-256 is not that of the store's identity")
    return samples


def parse_ledger_entry(
    blob: bytes,
    shard: int,
    header: StoreHeader,
    manifest_sha256: str,
    arrays: Mapping[str, fmt.RowArray],
) -> LedgerEntry:
    """Return a shard's ledger entry.

    Raises `DamagedRecordError` unless it is that of these rows of a manifest, which is known by
    the SHA-256 of its file.
    """
    rows = header.shard_rows(shard)
    try:
        value = json.loads(blob)
        entry = LedgerEntry(
            files={
                key: ShardFile(int(file["bytes"]), str(file["blake3"]))
                for key, file in value["files"].items()
            },
            failures={int(row): str(reason) for row, reason in value["failures"].items()},
        )
        found_rows, found_manifest = value["rows"], value["manifest_sha256"]
        is_another = value["shard"] != shard or found_rows != [rows.start, rows.stop]
        is_canonical = blob == canonical_json(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecordError(f"is damaged ({_reason(error)})") from error
    if is_another:
        raise DamagedRecordError(
            f"is that of shard {value['shard']} with rows {found_rows}, "
            f"expected shard {shard} with rows [{rows.start}, {rows.stop}]"
        )
    if found_manifest != manifest_sha256:
        raise DamagedRecordError("is of other images: its manifest is not the store's")
    if not set(entry.failures) <= set(rows):
        raise DamagedRecordError("has failures of rows that are not the shard's")
    expected = {array.shard_key(shard) for array in arrays.values()}
    if set(entry.files) != (expected if len(entry.failures) < len(rows) else set()):
        raise DamagedRecordError("lists other files than those of the shard")
    if not is_canonical:
        raise DamagedRecordError("was edited, it is no canonical JSON any more")
    return entry


def corrected_header(storage: Storage, header: StoreHeader, *, rows: int) -> StoreHeader:
    """The header with the given number of rows, in shards as large as an array's metadata says."""
    try:
        array = json.loads(storage.read(f"targets/{fmt.GROUP}") or b"")
        rows_per_shard = int(array["chunk_grid"]["configuration"]["chunk_shape"][0])
    except (ValueError, KeyError, TypeError, IndexError):
        rows_per_shard = header.rows_per_shard
    if rows_per_shard < 1:
        rows_per_shard = fmt.ROWS_PER_SHARD
    return replace(header, rows=rows, rows_per_shard=rows_per_shard)


def check_metadata(
    storage: Storage,
    header: StoreHeader,
    samples: Samples,
    recorded: Mapping[str, str],
) -> Layout:
    """Hold every metadata file against its SHA-256 in `recorded`, and against the format.

    `recorded` is `metadata_sha256` of the completion, empty where there is none. `header` is as
    the store has it.
    """
    wrong: dict[str, str] = {}

    def differs(key: str, blob: bytes | None) -> bool:
        if blob is None:
            wrong[key] = "is missing"
        elif key in recorded and recorded[key] != sha256_of_bytes(blob):
            wrong[key] = f"was edited or damaged, its SHA-256 is not that in {fmt.COMPLETE}"
        return key in wrong

    differs(fmt.MANIFEST, storage.read(fmt.MANIFEST))
    expected = corrected_header(storage, header, rows=len(samples))
    if not differs(fmt.GROUP, storage.read(fmt.GROUP)) and header != expected:
        wrong[fmt.GROUP] = (
            f"has {header.rows} rows in shards of {header.rows_per_shard}, "
            f"expected {expected.rows} in shards of {expected.rows_per_shard}"
        )
    header = expected
    arrays = fmt.row_arrays(header.layers, header.identity.dtype, samples)
    blobs = fmt.metadata_blobs(header.to_json(), arrays, samples)
    for key, blob in blobs.items():
        if key == fmt.GROUP or differs(key, stored := storage.read(key)):
            continue
        if not key.endswith(fmt.GROUP):
            if stored != blob:
                wrong[key] = f"holds other {key.partition('/')[0]} than the manifest"
        elif fmt.GROUP in wrong:
            continue  # what it should say is in doubt
        elif not _describes(stored or b"", blob, is_recorded=key in recorded):
            wrong[key] = "is not what the format prescribes"
    return Layout(header, fmt.GROUP not in wrong, arrays, {*blobs, fmt.MANIFEST}, wrong)


# How codecs are spelled in JSON may change with zarr-python's versions, what they mean may not.
# So where a file is known to be as it was written, only the rest is held against what is
# written today.
_FIELDS = ("node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value")


def _describes(stored: bytes, prescribed: bytes, *, is_recorded: bool) -> bool:
    """Return whether an array's or a group's `zarr.json` says what is prescribed."""
    expected = json.loads(prescribed)
    try:
        found = json.loads(stored)
        fields = _FIELDS if is_recorded else (*_FIELDS, "codecs")
        return all(found.get(field) == expected.get(field) for field in fields)
    except (ValueError, AttributeError):
        return False


def _reason(error: Exception) -> str:
    # Not its representation: that of a UnicodeDecodeError holds all of the file.
    return f"{type(error).__name__}: {error}"
