"""Storage of stores: blobs under one place, whole or absent, on a disk or in a bucket."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError, StoreError

URL_MARK = "://"


class Prepared(ABC):
    """Bytes of a key to come: all written, and not yet to be seen."""

    key: str

    @abstractmethod
    def place(self) -> None:
        """Put the bytes at the key at once; what was there is replaced."""

    @abstractmethod
    def discard(self) -> None:
        """Clean up. Bytes that were placed stay."""


class Storage(ABC):
    """Keys to bytes below one place.

    A key holds all of its bytes or does not exist, and what was written is durable. All that
    `read_tail` and `read_part` of one object give of a key is of the same bytes: of a key that was
    replaced since, they give the former ones or raise `StoreError`. Every method
    raises `StoreError` when the place cannot be used, `StorageFullError` when it is full.
    """

    location: str
    # Reads that are worth having under way at once.
    parallel_reads: int

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The bytes of `key`, or None when there is no such key."""

    @abstractmethod
    def read_tail(self, key: str, length: int) -> bytes | None:
        """The last `length` bytes of `key` (all, when it is shorter), or None without the key."""

    @abstractmethod
    def read_part(self, key: str, offset: int, buffers: Sequence[np.ndarray]) -> bool:
        """Fill the buffers (uint8, at least a byte in all), one after another, from `offset` on.

        False when the key has not so many bytes, or is not there.
        """

    @abstractmethod
    def prepare(self, key: str, pieces: Iterable[bytes | memoryview]) -> Prepared:
        """Write the pieces, one after another, so that placing them at `key` takes little time.

        They are taken once, and may be made while they are written.
        """

    @abstractmethod
    def flush(self, key: str) -> None:
        """Make durable that something was placed at `key`."""

    def write(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Put the pieces, one after another, at `key`; what was there is replaced at once."""
        prepared = self.prepare(key, pieces)
        try:
            prepared.place()
            self.flush(key)
        finally:
            prepared.discard()

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Put `data` at `key` unless something is there already; says whether it was put."""

    @abstractmethod
    def link(self, key: str, source: "Storage", source_key: str) -> None:
        """Put the bytes of `source_key` at `key`, sharing them with the source where possible.

        Neither copy is ever changed in place, so sharing is safe. Raises `StoreError` when the
        source has no such key.
        """

    def copy(self, key: str, source: "Storage", source_key: str) -> None:
        """Put the bytes of `source_key` at `key`. Raises `StoreError` when there are none."""
        data = source.read(source_key)
        if data is None:
            raise lacking(source, source_key)
        self.write(key, [data])

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether `key` holds anything."""

    @abstractmethod
    def version(self, key: str) -> str | None:
        """A text that is another once `key` was replaced, None without the key."""

    @abstractmethod
    def move(self, target: "Storage") -> bool:
        """Move everything to the place of `target`, where nothing is, at once; this one is gone.

        Returns False where that cannot be done at once: nothing is done then.
        """

    def read_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read small keys side by side; None for one that is not there."""
        workers = min(self.parallel_reads, len(keys))
        if workers < 2:
            return [self.read(key) for key in keys]
        # A call for each of thousands of keys would take longer than the reads.
        bounds = [len(keys) * part // workers for part in range(workers + 1)]
        with ThreadPoolExecutor(workers) as threads:
            parts = threads.map(
                lambda part: [self.read(key) for key in keys[part[0] : part[1]]], pairwise(bounds)
            )
            return [blob for part in parts for blob in part]

    @abstractmethod
    def sizes(self, folder: str = "") -> dict[str, int]:
        """Every key with its size in bytes, sorted; empty when there is nothing.

        Args:
            folder: Only keys below it, such as "ledger".
        """

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders right below, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key` if it is there."""

    @abstractmethod
    def delete_all(self) -> None:
        """Remove every key and the place itself."""

    @abstractmethod
    def remove_leftovers(self) -> None:
        """Remove what a killed writer left behind under no key."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where there is no limit to know."""

    @abstractmethod
    def exclusively(self, key: str = "") -> AbstractContextManager[None]:
        """Keep out other writers that ask for the same, as far as the place allows it.

        `key` is there already, and stands for what is guarded; without one, it is the place.
        """


def storage_at(location: str | Path) -> Storage:
    """The storage at a folder, or at a URL such as s3://bucket/folder.

    Raises `InputError` for a URL of another kind.
    """
    text = str(location)
    if re.match(r"s3:(?!//)", text):
        raise InputError("s3: without // was given; expected s3://BUCKET/FOLDER")
    if URL_MARK not in text:
        from declip_pipeline.store.local import LocalStorage

        return LocalStorage(Path(text))
    scheme = text.split(URL_MARK, maxsplit=1)[0]
    if scheme != "s3":
        raise InputError(
            f"{scheme}{URL_MARK}... is not supported; expected a folder or s3://BUCKET/FOLDER"
        )
    from declip_pipeline.store.s3 import ObjectStorage

    return ObjectStorage(text)


def join_location(root: str | Path, *parts: str) -> str:
    """The place below `root`, a folder or a URL."""
    if URL_MARK not in str(root):
        return str(Path(root, *parts))
    scheme, _, rest = str(root).partition(URL_MARK)
    return scheme + URL_MARK + "/".join([rest.rstrip("/"), *parts])


def folder_of(location: str, levels: int = 1) -> str:
    """Return the folder `levels` above a store, a path or an s3:// URL."""
    if URL_MARK in location:
        return location.rstrip("/").rsplit("/", levels)[0]
    return str(Path(location).absolute().parents[levels - 1])


def is_below_something(location: str) -> bool:
    """Return whether there can be something beside a place: not beside a bucket."""
    return URL_MARK not in location or "/" in location.partition(URL_MARK)[2].rstrip("/")


def sibling_location(location: str, name: str) -> str:
    """The place called `name` beside `location`, a folder or a URL."""
    return join_location(folder_of(location), name)


def absolute_location(location: str) -> str:
    """The same place, as any process of this machine finds it whatever its current folder."""
    return location if URL_MARK in location else str(Path(location).absolute())


def replaced(place: str) -> StoreError:
    """The error for a store or a file of one that is another than when it was first read."""
    return StoreError(
        f"{place} was replaced or removed since its store was opened, as `overwrite=True` does; "
        "open the store again"
    )


def lacking(source: Storage, key: str) -> StoreError:
    """The error for a key that is to be shared, and is not there."""
    return StoreError(
        f"{source.location} lacks its {key}; "
        f"run `declip-pipe cache verify {source.location} --repair`"
    )
