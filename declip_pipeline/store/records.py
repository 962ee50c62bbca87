"""Checks of the records of a store: completion, manifest, ledger, metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.features import feature_dtype
from declip_pipeline.files import canonical_json, sha256_of_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import MOST_ROWS_PER_SHARD, StoreHeader
from declip_pipeline.store.identity import manifest_sha256
from declip_pipeline.store.schema import DamagedRecordError, Fields, parse_json
from declip_pipeline.store.storage import URL_MARK, Storage


@dataclass(frozen=True)
class ShardFile:
    """One array's file of a shard, as the ledger has it."""

    bytes: int
    blake3: str


@dataclass(frozen=True)
class Completion:
    """`complete.json`, the root of the tree of hashes over a store."""

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


def parse_completion(blob: bytes, header: StoreHeader) -> Completion:
    """The content of `complete.json` of the store with this header.

    Raises `DamagedRecordError`, also where it lists files that are not a store's metadata, or
    leaves out its group or its manifest.
    """
    value = parse_json(blob)
    fields = Fields(value)
    rows = fields.integer("rows", 1)
    found = Completion(
        rows=rows,
        failures=fields.failures("failures", range(rows)),
        ledger_sha256=fields.sha256("ledger_sha256"),
        metadata_sha256=fields.hashes("metadata_sha256"),
    )
    _require_canonical(blob, value)
    listed = set(found.metadata_sha256)
    if not {fmt.GROUP, fmt.MANIFEST} <= listed <= set(metadata_keys(header)):
        raise DamagedRecordError("lists other metadata files than the store's")
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
    value = parse_json(blob)
    fields = Fields(value)
    if fields.any("shard") != shard or fields.any("rows") != [rows.start, rows.stop]:
        raise DamagedRecordError(
            f"is that of shard {fields.any('shard')} with rows {fields.any('rows')}, "
            f"expected shard {shard} with rows [{rows.start}, {rows.stop}]"
        )
    if fields.sha256("manifest_sha256") != manifest_sha256:
        raise DamagedRecordError("is of other images: its manifest is not the store's")
    failures = fields.failures("failures", rows)
    listed = fields.fields("files")
    expected = {array.shard_key(shard) for array in arrays.values()}
    if set(fields.mapping("files")) != (expected if len(failures) < len(rows) else set()):
        raise DamagedRecordError("lists other files than those of the shard")
    files = {key: listed.fields(key) for key in fields.mapping("files")}
    _require_canonical(blob, value)
    return LedgerEntry(
        {
            key: ShardFile(file.integer("bytes"), file.sha256("blake3"))
            for key, file in files.items()
        },
        failures,
    )


def require_recorded(key: str, blob: bytes | None, completion: Completion) -> None:
    """Raise `DamagedRecordError` unless a metadata file has its SHA-256 in the completion."""
    if blob is None:
        raise DamagedRecordError("is missing")
    if sha256_of_bytes(blob) != completion.metadata_sha256[key]:
        raise DamagedRecordError(
            f"was edited or damaged, its SHA-256 is not that in {fmt.COMPLETE}"
        )


def damaged_record(location: str, key: str, error: DamagedRecordError) -> StoreError:
    """The error for a damaged record of a store."""
    remedy = f"run `declip-pipe cache verify {location} --repair`"
    if URL_MARK not in location and Path(location).is_file():
        remedy = "export it again"
    return StoreError(f"{location}: its {key} {error}; {remedy}")


def _require_canonical(blob: bytes, value: Any) -> None:
    if blob != canonical_json(value):
        raise DamagedRecordError("was edited, it is no canonical JSON any more")


def metadata_keys(header: StoreHeader) -> list[str]:
    """Keys that a store's metadata can have, sorted: no shard, no ledger, no completion.

    What someone else put beside them is no part of the store, and nothing may depend on it.
    """
    names = [fmt.layer_key(layer) for layer in header.layers]
    if feature_dtype(header.identity.dtype).scale_per is not None:
        names += [fmt.scales_key(layer) for layer in header.layers]
    groups = {name.partition("/")[0] for name in names}
    arrays = [*names, "targets", "thumbnails", "masks", fmt.LABELS, fmt.SIZES]
    known = {f"{name}/{fmt.GROUP}" for name in [*groups, *arrays]}
    known |= {f"{fmt.LABELS}/c.0", f"{fmt.SIZES}/c.0.0"}
    known |= {fmt.GROUP, fmt.MANIFEST}
    return sorted(known)


def corrected_header(storage: Storage, header: StoreHeader, *, rows: int) -> StoreHeader:
    """The header with the given number of rows, in shards as large as an array's metadata says."""
    try:
        array = Fields(parse_json(storage.read(f"thumbnails/{fmt.GROUP}") or b""))
        shape = array.fields("chunk_grid").fields("configuration").any("chunk_shape")
        rows_per_shard = Fields({"rows": shape[0]}).integer("rows", 1, MOST_ROWS_PER_SHARD)
    except (DamagedRecordError, TypeError, IndexError, KeyError):
        rows_per_shard = header.rows_per_shard
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
    expected = parse_json(prescribed)
    try:
        found = parse_json(stored)
    except DamagedRecordError:
        return False
    fields = _FIELDS if is_recorded else (*_FIELDS, "codecs")
    return isinstance(found, dict) and all(found.get(f) == expected.get(f) for f in fields)
