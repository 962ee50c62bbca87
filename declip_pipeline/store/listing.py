"""The stores under a root, and what they take, complete or not."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader, parse_header, read_samples
from declip_pipeline.store.storage import URL_MARK, Storage, join_location, storage_at


@dataclass(frozen=True)
class StoreSummary:
    """One store at a glance.

    `header` is None, and `problem` says why, where it cannot be read. `bytes_of` maps arrays, and
    "records" for all else, to the bytes they take; files shared with other stores count in each.
    """

    location: str
    header: StoreHeader | None
    problem: str | None
    shards_written: int
    is_complete: bool
    bytes_of: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All that the store takes."""
        return sum(self.bytes_of.values())

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        found: dict[str, Any] = {
            "location": self.location,
            "complete": self.is_complete,
            "bytes": self.total_bytes,
        }
        if self.header is None:
            return found | {"problem": self.problem}
        identity = self.header.identity
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
        }


@dataclass(frozen=True)
class StoreDetails:
    """One store in full: its summary and what its records say of its samples.

    `counts` maps (split, generator) to how many samples there are and how many of them failed;
    `failures` maps the samples' images to the reasons.
    """

    summary: StoreSummary
    counts: dict[tuple[str, str], tuple[int, int]]
    failures: dict[str, str]


def list_stores(root: str | Path) -> list[StoreSummary]:
    """Every store under `root` (a folder or an s3:// URL), sorted by location.

    A store that cannot be read (damaged, of another format version) is listed with its problem.
    Raises `InputError` when there is no such folder.
    """
    if URL_MARK not in str(root) and not Path(root).is_dir():
        what = "is a file" if Path(root).is_file() else "does not exist"
        raise InputError(f"{root} {what}; expected a folder that holds stores")
    storage = storage_at(root)
    sizes = storage.sizes()
    marks = (fmt.GROUP, fmt.MANIFEST)
    folders = {key.rpartition("/")[0] for key in sizes if key.rpartition("/")[2] in marks}
    # A store's arrays have metadata too, but no manifest.
    stores = [f for f in sorted(folders) if f"{f}/{fmt.MANIFEST}".lstrip("/") in sizes]
    return [_summary(storage, folder, sizes) for folder in stores]


def describe_store(location: str | Path) -> StoreDetails:
    """All there is to know of one store without reading its arrays.

    Raises `StoreError` for what is not a store, or has damaged records.
    """
    storage = storage_at(location)
    header = parse_header(storage.read(fmt.GROUP), str(location))
    summary = _summary(storage, "", storage.sizes())
    samples = read_samples(storage.read(fmt.MANIFEST), str(location))
    try:
        failed = _failures(storage, header)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{location}: its records are damaged; run `declip-pipe cache verify {location}`"
        ) from error
    keys = list(zip(samples.strings("split"), samples.strings("generator"), strict=True))
    images, broken = Counter(keys), Counter(keys[row] for row in failed)
    counts = {key: (images[key], broken[key]) for key in sorted(images)}
    return StoreDetails(
        summary, counts, {samples[row].image: failed[row] for row in sorted(failed)}
    )


def _failures(storage: Storage, header: StoreHeader) -> dict[int, str]:
    """Rows that failed with their reasons: of a complete store, or so far."""
    complete = storage.read(fmt.COMPLETE)
    if complete is not None:
        return {int(row): why for row, why in json.loads(complete)["failures"].items()}
    failed: dict[int, str] = {}
    for shard in range(header.shards):
        blob = storage.read(fmt.ledger_key(shard))
        if blob is not None:
            failed |= {int(row): why for row, why in json.loads(blob)["failures"].items()}
    return failed


def _summary(storage: Storage, folder: str, sizes: Mapping[str, int]) -> StoreSummary:
    below = f"{folder}/" if folder else ""
    own = {key.removeprefix(below): size for key, size in sizes.items() if key.startswith(below)}
    location = join_location(storage.location, folder) if folder else storage.location
    header, problem = None, None
    try:
        header = parse_header(storage.read(f"{below}{fmt.GROUP}"), location)
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
        shards_written=sum(key.startswith(fmt.LEDGER) for key in own),
        is_complete=header is not None and fmt.COMPLETE in own,
        bytes_of=dict(bytes_of),
    )
