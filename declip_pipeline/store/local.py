"""Storage in a folder of a file system."""

import errno
import fcntl
import os
import secrets
import shutil
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.store.open_files import (
    OPEN_FILES,
    OpenFile,
    opened,
    read_from,
    read_into,
    read_whole,
    version_of,
)
from declip_pipeline.store.storage import Prepared, Storage, lacking, replaced
from declip_pipeline.store.write_back import write_pieces

PARTIAL = ".partial"


class LocalStorage(Storage):
    """Keys are files below a folder.

    A file is written beside its place, flushed to disk and renamed, then its folder is flushed: a
    key that can be seen is whole, and stays after a power failure.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.location = str(folder)
        self.parallel_reads = min(os.cpu_count() or 1, 8)
        # Of each key that was read in part: which file it was.
        self._versions: dict[str, str] = {}
        self._files = OPEN_FILES.of_storage()
        weakref.finalize(self, OPEN_FILES.close, self._files)

    def read(self, key: str) -> bytes | None:
        with self.errors("read", key):
            file = opened(self.folder / key)
            return None if file is None else read_whole(file.descriptor)

    def read_tail(self, key: str, length: int) -> bytes | None:
        with self.errors("read", key):
            file = self._open(key)
            if file is None:
                return None
            size = os.fstat(file.descriptor).st_size
            return read_from(file.descriptor, max(0, size - length), min(length, size))

    def read_part(self, key: str, offset: int, buffers: Sequence[np.ndarray]) -> bool:
        # The one hot path: a context manager would cost as much here as it guards.
        try:
            file = self._open(key)
            return file is not None and read_into(file.descriptor, offset, buffers)
        except OSError as error:
            raise self._error(error, "read", key) from error

    def prepare(self, key: str, pieces: Iterable[bytes | memoryview]) -> "_Partial":
        place = self.folder / key
        path = place.with_name(f".{place.name}.{secrets.token_hex(6)}{PARTIAL}")
        prepared = _Partial(self, key, path)
        with self.errors("write", key):
            _make_folder(place.parent)
            try:
                with path.open("wb", buffering=0) as file:
                    write_pieces(file.fileno(), pieces)
                    os.fsync(file.fileno())
            except BaseException:
                prepared.discard()
                raise
        return prepared

    def flush(self, key: str) -> None:
        with self.errors("write", key):
            _flush_folder((self.folder / key).parent)

    def create(self, key: str, data: bytes) -> bool:
        prepared = self.prepare(key, [data])
        try:
            with self.errors("write", key):
                if not self._take_name(key, prepared.path):
                    return False
            self.flush(key)
            return True
        finally:
            prepared.discard()

    def _take_name(self, key: str, partial: Path) -> bool:
        """Put a file at `key` unless something is there; says whether it was put."""
        try:
            # Unlike a rename, a link fails when the name is taken.
            (self.folder / key).hardlink_to(partial)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if (self.folder / key).exists():
                return False
            partial.replace(self.folder / key)
        return True

    def link(self, key: str, source: Storage, source_key: str) -> None:
        if isinstance(source, LocalStorage):
            target = self.folder / key
            if target == source.folder / source_key:
                return
            with self.errors("write", key):
                _make_folder(target.parent)
                target.unlink(missing_ok=True)
                try:
                    target.hardlink_to(source.folder / source_key)
                except FileNotFoundError as error:
                    raise lacking(source, source_key) from error
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                else:
                    _flush_folder(target.parent)
                    return
        self.copy(key, source, source_key)

    def exists(self, key: str) -> bool:
        with self.errors("read", key):
            return (self.folder / key).is_file()

    def version(self, key: str) -> str | None:
        with self.errors("read", key):
            try:
                return version_of((self.folder / key).stat())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def move(self, target: Storage) -> bool:
        if not isinstance(target, LocalStorage):
            return False
        with self.errors("move", ""):
            self.folder.rename(target.folder)
            _flush_folder(target.folder.absolute().parent)
        return True

    def sizes(self, folder: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        with self.errors("list", folder):
            for key, file in self._files_below(folder):
                if not file.name.endswith(PARTIAL):
                    # What goes meanwhile was not there; a link to nowhere is no file.
                    with suppress(FileNotFoundError):
                        found[key] = file.stat().st_size
        return dict(sorted(found.items()))

    def folders(self) -> list[str]:
        with self.errors("list", ""):
            if not self.folder.is_dir():
                return []
            return sorted(place.name for place in self.folder.iterdir() if place.is_dir())

    def delete(self, key: str) -> None:
        with self.errors("remove", key):
            (self.folder / key).unlink(missing_ok=True)

    def delete_all(self) -> None:
        with self.errors("remove", ""):
            if self.folder.exists():
                # Files right in the folder say what it is: they go last.
                for name in self.folders():
                    shutil.rmtree(self.folder / name)
                shutil.rmtree(self.folder)

    def remove_leftovers(self) -> None:
        with self.errors("remove", ""):
            for key, file in list(self._files_below("")):
                if file.name.startswith(".") and file.name.endswith(PARTIAL):
                    self.delete(key)
                    _flush_folder((self.folder / key).parent)

    def free_bytes(self) -> int:
        with self.errors("ask for free space at", ""):
            place = self.folder.absolute()
            while not place.exists():
                place = place.parent
            return shutil.disk_usage(place).free

    @contextmanager
    def exclusively(self, key: str = "") -> Iterator[None]:
        """Holds the kernel's lock on a file: it is let go when its holder dies, however.

        On network file systems a file's lock holds between machines, a folder's does not.
        """
        with self.errors("lock", key):
            # With a key there was a folder: one that has gone is not to be made again, empty.
            if not key:
                _make_folder(self.folder)
            descriptor = os.open(self.folder / key, os.O_RDWR if key else os.O_RDONLY)
        try:
            # Some network file systems have no locks. Writing stays atomic file by file then.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _files_below(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Every file below a folder with its key. Folders behind links are not entered."""
        waiting = [f"{folder}/" if folder else ""]
        while waiting:
            below = waiting.pop()
            try:
                entries = os.scandir(self.folder / below)
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{below}{entry.name}/")
                    elif _is_file(entry):
                        yield below + entry.name, entry

    def _open(self, key: str) -> "OpenFile | None":
        file = OPEN_FILES.get(self._files, key)
        if file is None:
            file = opened(self.folder / key)
            if file is None:
                return None
            # Files are closed and opened again; a reader knows where the rows of the first one lie.
            if self._versions.setdefault(key, file.version) != file.version:
                raise replaced(str(self.folder / key))
            OPEN_FILES.put(self._files, key, file)
        return file

    @contextmanager
    def errors(self, action: str, key: str) -> Iterator[None]:
        """Turn errors of the system into those of the library."""
        try:
            yield
        except OSError as error:
            raise self._error(error, action, key) from error

    def _error(self, error: OSError, action: str, key: str) -> StoreError | StorageFullError:
        place = error.filename or self.folder / key
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StorageFullError(
                f"no space left to {action} {place}; free some and run the same command "
                "again, it goes on where it stopped"
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            return StoreError(
                f"no permission to {action} {place}; check the folder's owner and mode"
            )
        if error.errno == errno.EROFS:
            return StoreError(
                f"cannot {action} {place}: its disk is read-only; stores there can be read, "
                "write to another place"
            )
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            return StoreError(f"cannot {action} {place}: it, or what is above it, is a file")
        return StoreError(
            f"cannot {action} {place}: {error.strerror or error}; "
            "check the disk and run the same command again"
        )


# A file system without hard links, one that is not the source's, or a file with too many.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS)


class _Partial(Prepared):
    """A file with all bytes, on the disk, beside the place of its key."""

    def __init__(self, storage: LocalStorage, key: str, path: Path) -> None:
        self.key, self.path = key, path
        self._storage = storage

    def place(self) -> None:
        with self._storage.errors("write", self.key):
            self.path.replace(self._storage.folder / self.key)

    def discard(self) -> None:
        with self._storage.errors("remove", self.key):
            self.path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on the disk before anything is put into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    # One may be allowed to write into a folder that one cannot open.
    with suppress(PermissionError):
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems (older CIFS, some of FUSE) know no flushing of folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link that leads to itself is no file
            raise
        return False
