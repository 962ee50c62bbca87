"""Pillow without its process-wide surprises, safe in many threads."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile


class _Guard:
    """Counts the threads inside; the first one changes the settings, the last restores them.

    `warnings.catch_warnings` alone is not safe in threads: one thread's exit would restore the
    filters that another has just set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._size_limit = Image.MAX_IMAGE_PIXELS
            self._load_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
            self._filters = warnings.catch_warnings()
            self._filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # The size is checked from the header by `decode_image`, with a message of its own.
            Image.MAX_IMAGE_PIXELS = None
            # Some programs switch this on; it would pad a truncated picture with grey.
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            Image.MAX_IMAGE_PIXELS = self._size_limit
            ImageFile.LOAD_TRUNCATED_IMAGES = self._load_truncated
            self._filters.__exit__(None, None, None)


_guard = _Guard()


@contextmanager
def guarded_pillow() -> Iterator[None]:
    """No Pillow warnings, no Pillow size limit and no padding of truncated pictures inside.

    Warnings of other modules are untouched, and the former settings come back at the end.
    """
    _guard.enter()
    try:
        yield
    finally:
        _guard.leave()
