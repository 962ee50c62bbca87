"""Catalog of stores: those under a root, those of other views, and what each of them holds."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.generations import delete_store, leftover
from declip_pipeline.store.header import (
    StoreHeader,
    format_version_of,
    parse_header,
    read_samples,
)
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.reader import Store, is_single_file
from declip_pipeline.store.records import (
    damaged_record,
    parse_completion,
    parse_ledger_entry,
    require_recorded,
)
from declip_pipeline.store.schema import DamagedRecordError
from declip_pipeline.store.storage import URL_MARK, Storage, folder_of, join_location, storage_at


@dataclass(frozen=True)
class StoreSummary:
    """Summary of a store.

    Args:
        location: A folder or a URL.
        header: None where it cannot be read.
        problem: Why the store cannot be used, None if nothing is known to be wrong with it.
        shards_written: Number of shards in the ledger.
        is_complete: Whether every shard was written and the store was closed, and `problem` is
            None.
        bytes_of: Bytes by array, and "records" for everything else. Files that are shared with
            other stores count in each of them.
    """

    location: str
    header: StoreHeader | None
    problem: str | None
    shards_written: int
    is_complete: bool
    bytes_of: dict[str, int]

    @property
    def leftover(self) -> str | None:
        """Its kind and remedy, where it was to replace a store, or was replaced by one."""
        return leftover(self.location)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.bytes_of.values())

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        found: dict[str, Any] = {
            "location": self.location,
            "complete": self.is_complete,
            "bytes": self.total_bytes,
        }
        if self.leftover is not None:
            found["leftover"] = self.leftover
        if self.header is None:
            return found | {"problem": self.problem}
        identity = self.header.identity
        if self.problem is not None:
            found["problem"] = self.problem
        return found | {
            "dataset": self.header.dataset,
            "backbone": identity.backbone,
            "view": identity.view,
            "dtype": identity.dtype,
            "layers": list(identity.layers),
            "images": self.header.rows,
            "shards": self.header.shards,
            "shards_written": self.shards_written,
            "identity_sha256": identity.sha256,
            **({} if identity.tiles is None else {"tiles": identity.tiles}),
        }


@dataclass(frozen=True)
class StoreDetails:
    """Summary of a store and of its samples.

    Args:
        summary: The summary.
        counts: Number of samples and of failed ones, by (split, generator).
        failures: Reasons by the paths of images that failed.
    """

    summary: StoreSummary
    counts: dict[tuple[str, str], tuple[int, int]]
    failures: dict[str, str]


def list_stores(root: str | Path) -> list[StoreSummary]:
    """List the stores under `root`, a folder or an s3:// URL, sorted by location.

    A store that cannot be used (damaged, of another format version) is listed with its problem.
    Shards and the rows of its manifest are not read; `verify_store` does.

    Raises:
        InputError: There is no such folder.
    """
    if URL_MARK not in str(root) and not Path(root).is_dir():
        what = "is no folder" if Path(root).exists() else "does not exist"
        raise InputError(f"{root} {what}; expected a folder that holds stores")
    storage = storage_at(root)
    sizes = storage.sizes()
    keys = list(sizes)
    found = []
    for folder in sorted({folder for key in keys if (folder := _marked(key, sizes)) is not None}):
        # What a killed estimate left, which the next one removes: no store of anyone's.
        if any(part.startswith(".") for part in folder.split("/")):
            continue
        below = f"{folder}/" if folder else ""
        first, last = (bisect_left(keys, below + end) for end in ("", "\U0010ffff"))
        own = {key: sizes[key] for key in keys[first:last]} if folder else sizes
        found.append(_summary(storage, folder, own))
    return found


def describe_store(location: str | Path) -> StoreDetails:
    """Describe a store without reading its arrays.

    Raises:
        StoreError: For what is not a store, or has damaged records.
    """
    storage = storage_at(location)
    header = parse_header(storage.read(fmt.GROUP), str(location))
    summary = _summary(storage, "", storage.sizes())
    if summary.problem is not None:
        raise StoreError(summary.problem)
    samples = read_samples(storage.read(fmt.MANIFEST), str(location))
    failed = _failures(storage, header, samples)
    broken = list(failed)
    counts = {
        (split, generator): (len(rows), int(np.isin(broken, rows).sum()))
        for (split, generator), rows in samples.rows_by("split", "generator").items()
    }
    return StoreDetails(
        summary, counts, {samples[row].image: failed[row] for row in sorted(failed)}
    )


def find_view_stores(store: Store, layers: Collection[str]) -> dict[str, str]:
    """Find complete stores of every view of a store's images, in the same folder.

    They have the same manifest, tiles, backbone, weights and preprocessing, and at least `layers`.
    Of several for a view, the one most like the store (in dtype, layers and precision) is taken.
    The store's own view is among them.

    Returns:
        Locations by the views' names.

    Raises:
        InputError: The store is a single file.
    """
    if is_single_file(store.location):
        raise InputError(
            f"{store.location} is a single file; its views are looked for in the folder of a "
            "store, give the path that `declip-pipe extract` printed"
        )
    own = store.identity
    found: dict[str, tuple[tuple[bool, ...], str]] = {own.view: ((), store.location)}
    folder = folder_of(store.location)
    storage = storage_at(folder)
    for name in storage.folders():
        if leftover(name) is not None:
            continue
        location = join_location(folder, name)
        try:
            identity = parse_header(storage.read(f"{name}/{fmt.GROUP}"), location).identity
        except StoreError:
            continue
        if identity.view == own.view or not storage.exists(f"{name}/{fmt.COMPLETE}"):
            continue
        if _has_same_images_and_features(identity, own) and set(layers) <= set(identity.layers):
            unlike = tuple(
                getattr(identity, field) != getattr(own, field)
                for field in ("dtype", "layers", "precision")
            )
            offer = (unlike, location)
            found[identity.view] = min(found.get(identity.view, offer), offer)
    return {view: location for view, (_, location) in found.items()}


def is_half_removed(location: str | Path) -> bool:
    """Return whether a removal of a store was interrupted: its group goes before its manifest."""
    storage = storage_at(location)
    return storage.exists(fmt.MANIFEST) and not storage.exists(fmt.GROUP)


def remove_store(location: str | Path) -> int:
    """Remove a whole store, finished or not, of this format version or another.

    Returns:
        Bytes that it took.

    Raises:
        StoreError: For what is not a store.
    """
    storage = storage_at(location)
    sizes = storage.sizes()
    # Without its group, a manifest is what an interrupted removal leaves.
    if fmt.MANIFEST not in sizes:
        group = storage.read(fmt.GROUP)
        if format_version_of(group) is None:
            parse_header(group, str(location))  # says what it is
    delete_store(storage)
    return sum(sizes.values())


def _has_same_images_and_features(one: StoreIdentity, other: StoreIdentity) -> bool:
    names = ("manifest_sha256", "tiles", "backbone", "weights_sha256", "preprocessing")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _marked(key: str, sizes: Mapping[str, int]) -> str | None:
    """Return the folder that a file marks as a store's; arrays have metadata alone.

    A store without its manifest or its completion is one, with a problem.
    """
    folder, slash, name = key.rpartition("/")
    if name == fmt.MANIFEST:
        return folder
    if name in (fmt.FORMER_MANIFEST, fmt.COMPLETE) and f"{folder}{slash}{fmt.GROUP}" in sizes:
        return folder
    return None


def _failures(storage: Storage, header: StoreHeader, samples: Samples) -> dict[int, str]:
    """Return the reasons by rows that failed so far."""
    key, blob = fmt.COMPLETE, storage.read(fmt.COMPLETE)
    found: dict[int, str] = {}
    try:
        if blob is not None:
            return parse_completion(blob, header).failures
        arrays = fmt.row_arrays(header.layers, header.identity.dtype, samples)
        manifest = sha256_of_bytes(storage.read(fmt.MANIFEST) or b"")
        keys = [fmt.ledger_key(shard) for shard in range(header.shards)]
        for shard, blob in enumerate(storage.read_all(keys)):
            key = keys[shard]
            if blob is not None:
                found |= parse_ledger_entry(blob, shard, header, manifest, arrays).failures
    except DamagedRecordError as error:
        raise damaged_record(storage.location, key, error) from error
    return found


def _summary(storage: Storage, folder: str, sizes: Mapping[str, int]) -> StoreSummary:
    """Summarize the store in a folder; `sizes` are those of the keys below it."""
    below = f"{folder}/" if folder else ""
    own = {key.removeprefix(below): size for key, size in sizes.items()}
    location = join_location(storage.location, folder) if folder else storage.location
    shards = sum(key.startswith(fmt.LEDGER) for key in own)
    header, completion, problem = None, None, None
    try:
        group = storage.read(f"{below}{fmt.GROUP}")
        header = parse_header(group, location)
        completion = storage.read(f"{below}{fmt.COMPLETE}")
        if fmt.MANIFEST not in own and storage.read(f"{below}{fmt.MANIFEST}") is None:
            raise StoreError(
                f"{location}: its {fmt.MANIFEST} is missing; extract the dataset again with "
                "`overwrite=True`"
            )
        if completion is not None:
            _require_whole(completion, header, group, shards, location)
        elif fmt.COMPLETE in storage_at(location).folders():
            raise StoreError(f"{location}: its {fmt.COMPLETE} is a folder, not a file; remove it")
    except StoreError as error:
        problem = str(error)
    bytes_of: Counter[str] = Counter()
    for key, size in own.items():
        name, _, chunk = key.rpartition("/")
        bytes_of[name if chunk.startswith("c.") else "records"] += size
    return StoreSummary(
        location=location,
        header=header,
        problem=problem,
        shards_written=shards,
        is_complete=completion is not None and problem is None,
        bytes_of=dict(bytes_of),
    )


def _require_whole(
    completion: bytes, header: StoreHeader, group: bytes | None, shards: int, location: str
) -> None:
    """Raise `StoreError` unless a completion is well-formed and of this header's bytes, `group`,
    and the ledger has every entry."""
    try:
        found = parse_completion(completion, header)
    except DamagedRecordError as error:
        raise damaged_record(location, fmt.COMPLETE, error) from error
    try:
        require_recorded(fmt.GROUP, group, found)
    except DamagedRecordError as error:
        raise damaged_record(location, fmt.GROUP, error) from error
    if shards < header.shards:
        raise StoreError(
            f"{location} is declared complete, and only {shards} of the ledger's "
            f"{header.shards} entries are there; `declip-pipe cache verify {location} --repair` "
            "makes it whole"
        )
