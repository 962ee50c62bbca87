"""Files that are read in parts: open once, at most so many at a time over all stores."""

import os
import resource
import stat
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from threading import RLock

import numpy as np

from declip_pipeline.errors import StoreError

MOST_OPEN_FILES = 256
"""Files that a process keeps open, fewer where the system allows it few."""


class OpenFile:
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
        self.version = version_of(found)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def opened(path: Path) -> OpenFile | None:
    """A regular file, None where there is none."""
    try:
        return OpenFile(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def version_of(found: os.stat_result) -> str:
    """A text that differs where a file was replaced."""
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


class OpenFiles:
    """The files that are kept open by all storages of the process together, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[tuple[int, str], OpenFile] = OrderedDict()
        self._storages = count()
        self._lock = RLock()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # Another thread may have held it.
        self._lock = RLock()

    def of_storage(self) -> int:
        """A number for a storage: its files are its own, or another's might be replaced ones."""
        return next(self._storages)

    def get(self, storage: int, key: str) -> OpenFile | None:
        with self._lock:
            file = self._files.get((storage, key))
            if file is not None:
                self._files.move_to_end((storage, key))
            return file

    def put(self, storage: int, key: str, file: OpenFile) -> None:
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


def most_open_files() -> int:
    """A quarter of what the system allows a process: others need files too."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        MOST_OPEN_FILES if allowed == resource.RLIM_INFINITY else min(MOST_OPEN_FILES, allowed // 4)
    )


OPEN_FILES = OpenFiles(most_open_files())


def read_whole(descriptor: int) -> bytes:
    """The bytes of a file."""
    return read_from(descriptor, 0, os.fstat(descriptor).st_size)


def read_from(descriptor: int, offset: int, length: int) -> bytes:
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


def read_into(descriptor: int, offset: int, buffers: Sequence[np.ndarray]) -> bool:
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
