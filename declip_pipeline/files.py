"""Files: content hashes, atomic writes and folder names."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from declip_pipeline.errors import StorageFullError

# A file system allows 255 bytes for a name; a seed or an identity is appended to this part.
LONGEST = 100


def canonical_json(value: Any) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys and no white space.

    Raises:
        ValueError: `value` contains NaN or infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_of_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def full_disk_as_error(path: Path) -> Iterator[None]:
    """Turn a full disk or an exhausted quota into a `StorageFullError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFullError(
                f"no space left while writing {path}; free some and run the same command again"
            ) from error
        raise


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file completely or not at all: write a temporary file, flush it, rename it.

    Args:
        path: The file to write. Missing parent folders are created.
        write: Called with the path of a temporary file beside `path`, which has the same suffix,
            since writers choose a format by it. The file is removed when `write` fails.

    Raises:
        StorageFullError: The disk is full.
    """
    with full_disk_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _locked_temporary(path)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


def _locked_temporary(path: Path) -> tuple[Path, int]:
    """Create an empty file beside `path`, locked for as long as its descriptor is open.

    The lock tells `remove_abandoned` that its writer lives; the kernel lets go of what dies.
    """
    while True:
        # Not the file's own name with more to it: that may be as long as a name can be.
        temporary = path.with_name(f".{secrets.token_hex(6)}.partial{path.suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # taken for abandoned before it was locked


def is_partial(path: Path) -> bool:
    """Return whether a file is one that `write_with` was writing when it was killed."""
    return re.fullmatch(r"\.[0-9a-f]{12}\.partial(\..*)?", path.name) is not None


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes were writing into a folder with `write_with`.

    What a process that lives is writing stays: its lock is held. On a disk without locks nothing
    is removed.
    """
    if not folder.is_dir():
        return
    for left in folder.glob(".*.partial*"):
        if is_partial(left) and left.is_file() and not left.is_symlink():
            with suppress(OSError), left.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `write_with` does."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_with(path, write)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` as `write_with` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` as `write_with` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def folder_name(text: str) -> str:
    """Return `text` as the name of one folder.

    The name holds letters, digits and `_.+-`, at most 100 bytes of UTF-8. Different texts may get
    the same name, so an identity must be appended to it or be stored inside the folder.
    """
    kept = re.sub(r"[^\w.+\-]+", "-", text).strip("-")
    cut = kept.encode()[:LONGEST].decode(errors="ignore")
    return cut if cut.strip(".") else "unnamed"
