"""Writing of a file whose parts go to the disk while the next ones are made."""

import ctypes
import os
from collections.abc import Iterable, Sequence

_MOST_PIECES = 512  # the kernel takes 1024
_WRITTEN_AT_ONCE = 4 * 2**20

# Linux alone has it, and Python has no function for it.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2


def write_pieces(descriptor: int, pieces: Iterable[bytes | memoryview]) -> None:
    """Write all pieces to a file that is open at its beginning, a few megabytes a call.

    Write-back of each part begins while the next part is made, so that the final flush waits for
    the last part only.
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
