"""Reading of .npy and .npz files that may come from anywhere: without pickles, bounded by header.

`numpy.load` reads what a header promises, and of an .npz all that its compressed bytes give.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from declip_pipeline.errors import ImageError

# A plain array's header takes 128 bytes; numpy itself refuses those of more than this.
_LONGEST_HEADER = 10_000
_KINDS = "bfiu"
# An archive of a map holds a handful.
_MOST_ARRAYS = 64


class ArrayHeader(NamedTuple):
    """Shape and type of an array, before its values are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def bytes(self) -> int:
        """Size of the values in bytes."""
        count = 1
        for side in self.shape:
            count *= side
        return count * self.dtype.itemsize


class ArrayFile:
    """An .npy or .npz file: the headers of its arrays, and the values of those asked for.

    Attributes:
        headers: Header of each array of booleans or numbers by name; the array of an .npy file is
            called "".
    """

    def __init__(self, path: Path) -> None:
        """Read the headers.

        Raises `ImageError` for a file that is damaged, or holds objects.
        """
        self._path = path
        self._is_archive = path.suffix.lower() == ".npz"
        self.headers: dict[str, ArrayHeader] = {}
        for name in self._names():
            with self._opened(name) as stream:
                self.headers[name] = _header(stream)

    def read(self, name: str) -> np.ndarray:
        """Return an array; no more bytes are read than its header says.

        Raises `ImageError` for a damaged file.
        """
        with self._opened(name) as stream:
            shape, dtype, fortran_order = header = _header(stream)
            data = bytearray(header.bytes)
            filled = 0
            while filled < len(data):
                part = stream.read(min(len(data) - filled, 2**24))
                if not part:
                    raise ImageError(
                        f"is truncated: its header says {len(data)} bytes, {filled} follow"
                    )
                data[filled : filled + len(part)] = part
                filled += len(part)
            if stream.read(1):  # which also checks an archive's checksum
                raise ImageError(f"is damaged: its header says {len(data)} bytes, more follow")
        values = np.frombuffer(data, dtype)
        return values.reshape(shape, order="F" if fortran_order else "C")

    def _names(self) -> list[str]:
        if not self._is_archive:
            return [""]
        with _errors(), zipfile.ZipFile(self._path) as archive:
            names = [one.filename for one in archive.infolist()]
        if len(names) > _MOST_ARRAYS:
            raise ImageError(f"holds {len(names)} arrays; at most {_MOST_ARRAYS} are read")
        return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        with _errors():
            if not self._is_archive:
                with self._path.open("rb") as stream:
                    yield stream
                return
            with (
                zipfile.ZipFile(self._path) as archive,
                archive.open(f"{name}.npy") as stream,
            ):
                yield stream


def _header(stream: IO[bytes]) -> ArrayHeader:
    if stream.read(6) != b"\x93NUMPY":
        raise ImageError("is not an array that NumPy saved")
    major = stream.read(2)[:1]
    length_bytes = stream.read(2 if major == b"\x01" else 4)
    (length,) = struct.unpack("<H" if len(length_bytes) == 2 else "<I", length_bytes)
    if length > _LONGEST_HEADER:
        raise ImageError(f"is damaged: an array's header of {length} bytes")
    encoded = stream.read(length)
    return _parsed(encoded)


def _parsed(encoded: bytes) -> ArrayHeader:
    """Parse a header by NumPy's own reader of version 1, which takes the text of all versions."""
    text = io.BytesIO(struct.pack("<H", len(encoded)) + encoded)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(text)
    if dtype.kind not in _KINDS:
        raise ImageError(f"holds an array of {dtype}; numbers expected")
    if min(shape, default=0) < 0:
        raise ImageError(f"is damaged: an array of shape {shape}")
    return ArrayHeader(shape, dtype, fortran_order)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what NumPy and zipfile raise for damaged files into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("does not fit in memory") from error
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"cannot be opened: {error.strerror}") from error
        raise ImageError(f"is damaged ({_line(error)})") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        NotImplementedError,  # a way of compression that is not there
        RuntimeError,  # an archive with a password
    ) as error:
        raise ImageError(f"is damaged ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
