"""Errors of libtiff, which writes them to stderr itself and goes on with what it has."""

import ctypes
import threading
from typing import Any

from PIL import _imaging

_LONGEST = 200
_MESSAGES = threading.local()
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


def collected_errors() -> list[str]:
    """Return this thread's errors since the last call, in order; none are kept."""
    found: list[str] = getattr(_MESSAGES, "found", [])
    _MESSAGES.found = []
    return found


class ErrorHandlers:
    """Process-wide handlers: errors are collected by thread, warnings are dropped.

    Where Pillow has no libtiff, nothing is done.
    """

    def __init__(self) -> None:
        # The symbol lookup goes through the libraries that Pillow's own module is linked with.
        library = ctypes.CDLL(_imaging.__file__)
        self._setters: list[Any] = []
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name, None)
            if setter is not None:
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                self._setters.append(setter)
        self._collect = _HANDLER(_collect)
        self._before: list[int | None] = []

    def install(self) -> None:
        """Put these handlers in the place of those that are there."""
        ours = [ctypes.cast(self._collect, ctypes.c_void_p), None]
        self._before = [
            setter(handler) for setter, handler in zip(self._setters, ours, strict=False)
        ]

    def restore(self) -> None:
        """Bring back the handlers that were there before `install`."""
        for setter, handler in zip(self._setters, self._before, strict=True):
            setter(handler)


def _collect(_module: bytes | None, text: bytes | None, arguments: int | None) -> None:
    buffer = ctypes.create_string_buffer(_LONGEST)
    # A va_list is passed as a pointer on the platforms that PyTorch has packages for.
    ctypes.CDLL(None).vsnprintf(buffer, ctypes.c_size_t(_LONGEST), text, ctypes.c_void_p(arguments))
    if not hasattr(_MESSAGES, "found"):
        _MESSAGES.found = []
    _MESSAGES.found.append(buffer.value.decode(errors="replace"))
