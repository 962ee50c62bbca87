"""Named blobs under one folder: whole or absent, durable once written."""

import errno
import os
import shutil
from pathlib import Path

import tensorstore as ts

from declip_pipeline.errors import StorageFullError, StoreError


class Storage:
    """Keys to bytes below a folder, through TensorStore's key-value store.

    TensorStore's file driver writes to a lock file, flushes it to disk and renames it, so a key
    holds all of its bytes or does not exist. Errors become `StoreError`, or `StorageFullError`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = ts.KvStore.open(self.spec()).result()

    def spec(self, below: str = "") -> dict[str, str]:
        """The TensorStore key-value store of the folder, or of a folder below it."""
        return {"driver": "file", "path": f"{(self.folder / below).as_posix()}/"}

    def read(self, key: str) -> bytes | None:
        """The bytes of `key`, or None when there is no such key."""
        try:
            result = self._blobs.read(key).result()
        except ValueError as error:
            raise _as_store_error(error, f"read {self.folder / key}") from error
        return None if result.state == "missing" else bytes(result.value)

    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, whole or not at all."""
        try:
            self._blobs.write(key, data).result()
        except ValueError as error:
            raise _as_store_error(error, f"write {self.folder / key}") from error

    def exists(self, key: str) -> bool:
        """Whether `key` holds anything."""
        return (self.folder / key).is_file()

    def delete(self, key: str) -> None:
        """Remove `key` if it is there."""
        self._blobs.write(key, None).result()

    def delete_all(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def free_bytes(self) -> int:
        """Free bytes on the disk that holds (or will hold) the folder."""
        place = self.folder
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def _as_store_error(error: ValueError, action: str) -> StoreError | StorageFullError:
    """TensorStore's error text as one of ours; it opens with the status code."""
    text = str(error).splitlines()[0]
    if text.startswith("RESOURCE_EXHAUSTED") or any(
        os.strerror(code) in text for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    ):
        return StorageFullError(
            f"no space left to {action}; free some and run the same command again, "
            "it goes on where it stopped"
        )
    if text.startswith("PERMISSION_DENIED") or "Permission denied" in text:
        return StoreError(f"no permission to {action}; check the folder's owner and mode")
    return StoreError(f"cannot {action}: {text}")
