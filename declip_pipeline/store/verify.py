"""Verification of a store: by sizes and records alone, or by reading all of it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.scan import in_threads
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.files import sha256_of_bytes, sha256_of_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader, format_version_of, parse_header
from declip_pipeline.store.records import (
    Completion,
    Layout,
    LedgerEntry,
    check_metadata,
    corrected_header,
    parse_completion,
    parse_ledger_entry,
    parse_manifest,
)
from declip_pipeline.store.schema import DamagedRecordError
from declip_pipeline.store.shard_check import Damage, check_content, check_size
from declip_pipeline.store.storage import URL_MARK, Storage, storage_at


@dataclass(frozen=True)
class Problem:
    """One file of a store that is not what it should be.

    `what` says in one line how that was seen; `key` is the file's path within the store. Of a
    shard's file, `array` and `shard` are given (of a ledger entry, `shard` alone), with the `rows`
    that cannot be trusted and the paths of their images, `images`. `is_stray` says that the file
    is of the store's own making, but superfluous; `is_repairable` that `repair_store` can mend it.
    """

    what: str
    key: str
    array: str | None = None
    shard: int | None = None
    rows: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    is_repairable: bool = True
    is_stray: bool = False


class Findings:
    """The problems found so far; `samples` are the manifest's, which name the images of rows."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.samples = Samples.from_rows([])

    def add(
        self,
        what: str,
        key: str,
        array: str | None = None,
        shard: int | None = None,
        rows: Iterable[int] = (),
        *,
        is_repairable: bool = True,
        is_stray: bool = False,
    ) -> None:
        """Note a problem."""
        rows = tuple(sorted(rows))
        images = tuple(self.samples[row].image for row in rows)
        self.problems.append(
            Problem(what, key, array, shard, rows, images, is_repairable, is_stray)
        )


# Files read side by side: a few, since some MB are held of each.
MOST_READS = 8


@dataclass(frozen=True)
class Verification:
    """Result of a verification: nothing is wrong where `problems` is empty."""

    problems: list[Problem]
    arrays: int
    shards: int
    rows: int
    total_bytes: int


def verify_store(
    location: str | Path,
    *,
    deep: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Hold a store's files against its records, and its records against each other.

    `deep` also reads every shard: its BLAKE3 hash, each chunk's checksum and presence, values that
    are not finite. Without it, only the sizes of shards are checked. Nothing is written.
    `progress(done, total)` counts shards' files. Raises `StoreError` where there is no store, or
    one whose group does not say what it holds; `InputError` for a file.
    """
    if URL_MARK not in str(location) and Path(location).is_file():
        raise InputError(
            f"{location} is a file, a store is a folder; import it first "
            f"(`declip-pipe cache import {location}`) and verify the store that this makes"
        )
    storage = storage_at(location)
    header = _read_header(storage)
    store = _Examined(storage, corrected_header(storage, header, rows=header.rows))
    completion = store.read_completion()
    recorded = {} if completion is None else completion.metadata_sha256
    try:
        manifest = storage.read(fmt.MANIFEST)
        store.found.samples = parse_manifest(manifest, header, recorded.get(fmt.MANIFEST))
        store.manifest_sha256 = sha256_of_bytes(manifest or b"")
    except DamagedRecordError as error:
        remedy = (
            "without it nothing else can be told, extract the store again with `overwrite=True`"
        )
        store.found.add(f"{error}; {remedy}", fmt.MANIFEST, is_repairable=False)
        return store.verification({})
    layout = check_metadata(storage, header, store.found.samples, recorded)
    store.header = layout.header
    for key, what in sorted(layout.wrong.items()):
        store.found.add(what, key)
    entries = store.read_ledger(completion, layout)
    # After the ledger: so what it names is there, though someone may still be writing.
    store.bytes_of = storage.sizes()
    store.check_shards(entries, layout, progress, deep=deep)
    if fmt.GROUP not in layout.wrong:
        store.check_strays(entries, layout)
    if completion is not None:
        store.check_completion(completion, entries, layout)
    return store.verification(layout.arrays)


def _read_header(storage: Storage) -> StoreHeader:
    blob = storage.read(fmt.GROUP)
    try:
        return parse_header(blob, storage.location, is_to_be_repaired=True)
    except StoreError as error:
        version = format_version_of(blob)
        is_of_another = isinstance(version, int) and version != fmt.FORMAT_VERSION
        if is_of_another or not storage.exists(fmt.MANIFEST):
            raise
        raise StoreError(
            f"{storage.location}: its {fmt.GROUP} is missing, damaged or edited, and nothing else "
            "says what the store holds; remove it and run the same `declip-pipe extract` command, "
            "which writes it again, then verify"
        ) from error


class _Examined:
    """A store under examination, and what was found so far."""

    def __init__(self, storage: Storage, header: StoreHeader) -> None:
        self.storage = storage
        self.header = header
        self.found = Findings()
        self.bytes_of: Mapping[str, int] = {}
        self.is_finished = True
        self.ledger_sha256 = ""
        self.manifest_sha256 = ""
        self._reads = min(storage.parallel_reads, MOST_READS)

    def verification(self, arrays: Mapping[str, fmt.RowArray]) -> Verification:
        """Return the result, the completion's problems first."""
        problems = sorted(self.found.problems, key=lambda problem: problem.key != fmt.COMPLETE)
        total = sum(self.bytes_of.values())
        return Verification(problems, len(arrays), self.header.shards, self.header.rows, total)

    def read_completion(self) -> Completion | None:
        """The store's completion; None where it is missing or damaged."""
        blob = self.storage.read(fmt.COMPLETE)
        self.is_finished = blob is not None
        try:
            return None if blob is None else parse_completion(blob, self.header)
        except DamagedRecordError as error:
            self.found.add(str(error), fmt.COMPLETE)
            return None

    def read_ledger(self, completion: Completion | None, layout: Layout) -> dict[int, LedgerEntry]:
        """The good entries by shard."""
        shards = range(self.header.shards)
        keys = [fmt.ledger_key(shard) for shard in shards]
        blobs = self.storage.read_all(keys)
        hashes = [sha256_of_bytes(blob or b"{}") for blob in blobs]
        self.ledger_sha256 = sha256_of_json(dict(zip(keys, hashes, strict=True)))
        # Where the two disagree, an entry whose failures are others is the one that was edited.
        was_edited = completion is not None and completion.ledger_sha256 != self.ledger_sha256
        if not self.is_finished:
            pending = blobs.count(None)
            lacking = f"{pending} of {len(blobs)} shards are" if pending else "it alone is"
            self.found.add(
                f"the store is incomplete: {lacking} missing; "
                "run the same `declip-pipe extract` command to finish it",
                fmt.COMPLETE,
            )
        entries: dict[int, LedgerEntry] = {}
        for shard, key, blob in zip(shards, keys, blobs, strict=True):
            rows = self.header.shard_rows(shard)
            if blob is None:
                # What an unfinished store lacks is not damaged, it is still to come.
                if self.is_finished:
                    self.found.add("is missing", key, shard=shard, rows=rows)
                continue
            try:
                entry = parse_ledger_entry(
                    blob, shard, self.header, self.manifest_sha256, layout.arrays
                )
            except DamagedRecordError as error:
                self.found.add(str(error), key, shard=shard, rows=rows)
                continue
            if was_edited and completion is not None:
                recorded = completion.failures.items()
                if entry.failures != {row: why for row, why in recorded if row in rows}:
                    what = f"has other failures than {fmt.COMPLETE}"
                    self.found.add(what, key, shard=shard, rows=rows)
                    continue
            entries[shard] = entry
        return entries

    def check_shards(
        self,
        entries: Mapping[int, LedgerEntry],
        layout: Layout,
        progress: Callable[[int, int], None],
        *,
        deep: bool,
    ) -> None:
        """Look at the files of every shard with a good entry; `deep` reads them."""
        tasks = [
            (shard, array)
            for shard, entry in entries.items()
            for array in layout.arrays.values()
            if entry.files
        ]
        sizes = self.found.samples.row_sizes

        def check(task: tuple[int, fmt.RowArray]) -> Damage | None:
            shard, array = task
            key, entry = array.shard_key(shard), entries[shard]
            file, rows = entry.files[key], self.header.shard_rows(shard)
            if not deep and self.bytes_of.get(key) == file.bytes:
                return None
            windows: dict[int, Sequence[int]] = {
                row - rows.start: array.row_shape if array.name != "masks" else sizes[row]
                for row in rows
                if row not in entry.failures
            }
            damage = check_size(file, self.bytes_of.get(key), windows)
            if damage is not None or not deep:
                return damage
            return check_content(
                self.storage,
                key,
                array,
                file,
                windows=windows,
                rows_per_shard=self.header.rows_per_shard,
                mark=self.header.shard_mark(array, shard, self.found.samples),
                is_layout_certain=layout.is_certain,
            )

        progress(0, len(tasks))
        checked = in_threads(check, tasks, ahead=2 * self._reads) if deep else map(check, tasks)
        for done, damage in enumerate(checked):
            shard, array = tasks[done]
            if damage is not None:
                rows = self.header.shard_rows(shard)
                # A place behind the last row can hold what no row is.
                wrong = [rows[place] for place in damage.rows if place < len(rows)]
                self.found.add(damage.what, array.shard_key(shard), array.name, shard, wrong)
            progress(done + 1, len(tasks))

    def check_strays(self, entries: Mapping[int, LedgerEntry], layout: Layout) -> None:
        """Look for files that are no part of the store."""
        known = {*layout.keys, fmt.COMPLETE}
        for shard in range(self.header.shards):
            known.add(fmt.ledger_key(shard))
            # Without an entry, the shard is to be written again, over whatever there is.
            all_keys = [array.shard_key(shard) for array in layout.arrays.values()]
            known.update(entries[shard].files if shard in entries else all_keys)
        arrays = "|".join(map(re.escape, layout.arrays))
        own = re.compile(rf"(?:{arrays})/c(?:\.\d+)+|{re.escape(fmt.LEDGER)}\d+\.json")
        for key in self.bytes_of:
            if key in known:
                continue
            if own.fullmatch(key):
                self.found.add("belongs to no shard in the ledger", key, is_stray=True)
            else:
                self.found.add("is no part of a store; move it elsewhere", key, is_repairable=False)

    def check_completion(
        self, completion: Completion, entries: Mapping[int, LedgerEntry], layout: Layout
    ) -> None:
        """Hold the completion against what it is about."""
        reasons = []
        if completion.rows != self.header.rows:
            reasons.append(f"has {completion.rows} rows, the manifest {self.header.rows}")
        if set(completion.metadata_sha256) != layout.keys:
            reasons.append("lists other metadata files than the store's")
        if completion.ledger_sha256 != self.ledger_sha256:
            # A damaged entry or shard is the likely cause, and named already.
            if all(problem.shard is None for problem in self.found.problems):
                reasons.append("ledger_sha256 is not that of the ledger")
        else:
            failures = {
                row: why for entry in entries.values() for row, why in entry.failures.items()
            }
            if len(entries) == self.header.shards and completion.failures != failures:
                reasons.append("has other failures than the ledger")
        if reasons:
            self.found.add("; ".join(reasons), fmt.COMPLETE)
