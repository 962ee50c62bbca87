"""Grey PNG files, compressed strip by strip."""

import io
import struct
import zlib

import numpy as np

from declip_pipeline.images.png_chunks import SIGNATURE

_UNFILTERED, _SUB = 0, 1


class GreyPng:
    """Content of a grey PNG file of 8 or 16 bits that is made from the top, in strips of rows.

    8 bits are for masks: runs of equal bytes are compressed and nothing else is looked for, in a
    fraction of Pillow's time (benchmarks/encoding.py). 16 bits are for smooth maps: each value is
    stored as its difference from its left neighbour (filter "Sub").

    Source: PNG specification, third edition (W3C).
    """

    def __init__(self, height: int, width: int, dtype: type[np.uint8] | type[np.uint16]) -> None:
        """Begin a file of `height` rows, all of which are to be added."""
        self._width = width
        self._bytes = np.dtype(dtype).itemsize
        strategy = zlib.Z_RLE if self._bytes == 1 else zlib.Z_DEFAULT_STRATEGY
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        self._file = io.BytesIO(SIGNATURE)
        self._file.seek(0, io.SEEK_END)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * self._bytes, 0, 0, 0, 0))

    def add(self, rows: np.ndarray) -> None:
        """Add the next rows, (n, width) of the file's dtype."""
        side = self._bytes
        lines = np.empty((len(rows), 1 + self._width * side), np.uint8)
        values = lines[:, 1:]
        if side == 1:
            lines[:, 0] = _UNFILTERED
            values[:] = rows
        else:
            lines[:, 0] = _SUB
            big_endian = rows.astype(">u2").view(np.uint8)
            values[:, :side] = big_endian[:, :side]
            np.subtract(big_endian[:, side:], big_endian[:, :-side], out=values[:, side:])
        self._data(self._deflate.compress(lines.data))

    def content(self) -> bytes:
        """Return the file, after its last row."""
        self._data(self._deflate.flush())
        self._chunk(b"IEND", b"")
        return self._file.getvalue()

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind)
        self._file.write(data)
        self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
