"""Memory for batches of rows, used again once no array refers to it."""

from collections import deque
from math import prod
from threading import RLock
from typing import Any

import numpy as np

# Smaller arrays come from the allocator's own pages.
SMALLEST = 2**20
# Memory kept for later reads: of a few batches read ahead, and never more bytes than this.
MOST_IDLE = 4
MOST_IDLE_BYTES = 256 * 2**20


class Buffers:
    """Uninitialized arrays from memory that is used again.

    New memory must be zeroed by the kernel, page by page. For batches of 17 to 34 MB this takes
    half again the time of the read itself (docs/design.md).
    """

    def __init__(self) -> None:
        # Reentrant: the garbage collector may give memory back at any moment, in any thread.
        self._lock = RLock()
        self._idle: deque[np.ndarray] = deque()

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array as `np.empty` does; its memory comes back when no view of it is left."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        memory = self._take(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lent(self, memory)).view(dtype).reshape(shape)

    @property
    def idle_bytes(self) -> int:
        """Bytes kept that no array refers to."""
        with self._lock:
            return sum(len(memory) for memory in self._idle)

    def _take(self, size: int) -> np.ndarray | None:
        with self._lock:
            for number, memory in enumerate(self._idle):
                if len(memory) == size:
                    del self._idle[number]
                    return memory
        return None

    def give_back(self, memory: np.ndarray) -> None:
        """Keep memory that no array refers to; what has waited longest goes when it is too much."""
        with self._lock:
            self._idle.append(memory)
            while len(self._idle) > MOST_IDLE or self.idle_bytes > MOST_IDLE_BYTES:
                self._idle.popleft()


class _Lent:
    """Owner of an array's memory, as NumPy sees it: gone when the last view is gone."""

    def __init__(self, buffers: Buffers, memory: np.ndarray) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self._buffers, self._memory = buffers, memory

    def __del__(self) -> None:
        self._buffers.give_back(self._memory)


# One for all stores: an epoch may read several, one after another.
BUFFERS = Buffers()
