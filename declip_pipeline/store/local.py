"""Storage in a folder of a file system, and a test whether other processes see the same place."""

import ctypes
import errno
import fcntl
import os
import resource
import secrets
import shutil
import socket
import stat
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import RLock

import numpy as np

from declip_pipeline.errors import DeclipError, InputError, StorageFullError, StoreError
from declip_pipeline.store.storage import (
    Prepared,
    Storage,
    absolute_location,
    lacking,
    replaced,
    storage_at,
)

OPEN_FILES = 256
_MOST_PIECES = 512  # the kernel takes 1024
_WRITTEN_AT_ONCE = 4 * 2**20
PARTIAL = ".partial"

# Linux alone has it, and Python has no function for it.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


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
        self._files = _OPEN_FILES.of_storage()
        weakref.finalize(self, _OPEN_FILES.close, self._files)

    def read(self, key: str) -> bytes | None:
        with self.errors("read", key):
            file = _opened(self.folder / key)
            return None if file is None else _read_whole(file.descriptor)

    def read_tail(self, key: str, length: int) -> bytes | None:
        with self.errors("read", key):
            file = self._open(key)
            if file is None:
                return None
            size = os.fstat(file.descriptor).st_size
            return _read_from(file.descriptor, max(0, size - length), min(length, size))

    def read_part(self, key: str, offset: int, buffers: Sequence[np.ndarray]) -> bool:
        # The one hot path: a context manager would cost as much here as it guards.
        try:
            file = self._open(key)
            return file is not None and _read_into(file.descriptor, offset, buffers)
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
                return _version((self.folder / key).stat())
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

    def _open(self, key: str) -> "_OpenFile | None":
        file = _OPEN_FILES.get(self._files, key)
        if file is None:
            file = _opened(self.folder / key)
            if file is None:
                return None
            # Files are closed and opened again; a reader knows where the rows of the first one lie.
            if self._versions.setdefault(key, file.version) != file.version:
                raise replaced(str(self.folder / key))
            _OPEN_FILES.put(self._files, key, file)
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


class _OpenFile:
    """A file that is closed when the last thread that reads from it lets go of it."""

    def __init__(self, path: Path) -> None:
        # A named pipe would be waited for without end.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        found = os.fstat(self.descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(
                f"{path} is no regular file, but a pipe or a device; expected a file of a store, "
                "remove it"
            )
        self.version = _version(found)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link that leads to itself is no file
            raise
        return False


def _opened(path: Path) -> _OpenFile | None:
    """A regular file, None where there is none."""
    try:
        return _OpenFile(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _version(found: os.stat_result) -> str:
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


class _OpenFiles:
    """The files that are kept open by all storages of the process together, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[tuple[int, str], _OpenFile] = OrderedDict()
        self._storages = count()
        self._lock = RLock()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # Another thread may have held it.
        self._lock = RLock()

    def of_storage(self) -> int:
        """A number for a storage: its files are its own, or another's might be replaced ones."""
        return next(self._storages)

    def get(self, storage: int, key: str) -> _OpenFile | None:
        with self._lock:
            file = self._files.get((storage, key))
            if file is not None:
                self._files.move_to_end((storage, key))
            return file

    def put(self, storage: int, key: str, file: _OpenFile) -> None:
        with self._lock:
            self._files[storage, key] = file
            # Closed outside of the lock, when the name goes.
            beyond = range(len(self._files) - self._most)
            oldest = [self._files.popitem(last=False) for _ in beyond]
        del oldest

    def close(self, storage: int) -> None:
        """Let go of a storage's files."""
        with self._lock:
            own = [self._files.pop(key) for key in list(self._files) if key[0] == storage]
        del own


def _most_open_files() -> int:
    """A quarter of what the system allows a process: others need files too."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN_FILES if allowed == resource.RLIM_INFINITY else min(OPEN_FILES, allowed // 4)


_OPEN_FILES = _OpenFiles(_most_open_files())


def _read_whole(descriptor: int) -> bytes:
    return _read_from(descriptor, 0, os.fstat(descriptor).st_size)


def _read_from(descriptor: int, offset: int, length: int) -> bytes:
    """The bytes from `offset` on, fewer where the file ends before."""
    pieces = []
    while length:
        # The kernel may give fewer than asked for, at most 2 GB.
        piece = os.pread(descriptor, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_into(descriptor: int, offset: int, buffers: Sequence[np.ndarray]) -> bool:
    """Fill the buffers from `offset` on; False when the file ends before."""
    waiting = [buffer.data for buffer in buffers]
    while waiting:
        count = os.preadv(descriptor, waiting, offset)
        if count == 0:
            return False
        offset += count
        # The kernel may stop early, at most 2 GB on.
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]
    return True


def write_pieces(descriptor: int, pieces: Iterable[bytes | memoryview]) -> None:
    """Write all pieces to a file that is open at its beginning, a few megabytes a call.

    The disk is told to begin with each part at once, while the next is made: what the flush at the
    end waits for is the last part.
    """
    waiting: list[bytes | memoryview] = []
    start = size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _WRITTEN_AT_ONCE or len(waiting) == _MOST_PIECES:
            _write_all(descriptor, waiting)
            begin_write_back(descriptor, start, size)
            waiting, start, size = [], start + size, 0
    _write_all(descriptor, waiting)


def begin_write_back(descriptor: int, start: int, size: int) -> None:
    """Have the disk begin to write a part of a file, where the system has a call for it."""
    if _sync_file_range is not None:
        # It only saves time: what fails here fails again in fsync, whose word counts.
        _sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    waiting = [memoryview(piece) for piece in pieces]
    while waiting:
        count = os.writev(descriptor, waiting)
        while waiting and count >= len(waiting[0]):
            count -= len(waiting.pop(0))
        if count:
            waiting[0] = waiting[0][count:]


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


@contextmanager
def token_at(location: str) -> Iterator[tuple[str, str]]:
    """Leaves a token at a folder or URL for as long as it is looked for; yields place and token.

    Raises what the place's storage does when nothing can be written there.
    """
    storage = storage_at(absolute_location(location))
    token = f".seen-by-workers-{secrets.token_hex(8)}"
    storage.write(token, [token.encode()])
    try:
        yield storage.location, token
    finally:
        storage.delete(token)


def require_token(place: str, token: str, option: str, expected: str) -> None:
    """In a worker: raise `InputError` unless it sees the token. `option` named the place.

    `expected` says which places all workers see.
    """
    host = socket.gethostname()
    try:
        is_seen = storage_at(place).read(token) == token.encode()
    except DeclipError as error:
        raise InputError(f"the worker on {host} cannot use {option} {place}: {error}") from error
    if not is_seen:
        raise InputError(f"the worker on {host} sees another {option} {place}; expected {expected}")
