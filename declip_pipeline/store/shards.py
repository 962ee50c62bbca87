"""Zarr's sharding codec, for the arrays of a store: chunks with checksums, and their index.

A shard is its chunks one after another, then its mark (32 bytes, `StoreHeader.shard_mark`), then
the index: (offset, bytes) of each chunk as two uint64, both 2^64-1 where the chunk is absent, then
the crc32c of the index. A chunk is its values (little endian, zstd where the array is compressed),
then their crc32c. Readers of Zarr alone do not see the mark: no chunk lies there.
Source: Zarr v3, "Sharding codec (version 1.0)".

Written here rather than left to a library, since this is where the time goes: batches of rows read
at 2 to 3 times TensorStore's rate from a local disk (benchmarks/store.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import pyarrow as pa
from awscrt.checksums import crc32c
from blake3 import blake3
from numcodecs import zstd

from declip_pipeline.store.format import ZSTD_LEVEL, RowArray

CHECKSUM_BYTES = 4
MARK_BYTES = 32
ABSENT = 2**64 - 1
_MOST_OFFSET = 2**62

Buffer = bytes | memoryview

_ZSTD = pa.Codec("zstd")

# A float whose exponent is all ones is an infinity or not a number. As integers of the same bits
# these are the largest: of the positive floats among signed integers, of the negative ones among
# unsigned. Two maxima need no temporary array and are 4 times faster than np.isfinite on float16.
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
_INTEGERS = {2: (np.int16, np.uint16), 4: (np.int32, np.uint32)}


class DamagedChunkError(Exception):
    """A chunk or an index is not what was written; the message says how that was seen."""


class EncodedShard:
    """A shard's file as it is encoded: iterated once, it yields the pieces one after another.

    Each row is checked, hashed and handed on while the processor's caches hold it, and a disk can
    write the first rows while the last are encoded.

    Attributes:
        size: Bytes of the pieces so far.
    """

    def __init__(
        self,
        array: RowArray,
        rows_per_shard: int,
        places: Sequence[int],
        values: Iterable[np.ndarray],
        mark: bytes,
    ) -> None:
        """Encode nothing yet.

        Args:
            array: The array.
            rows_per_shard: Rows of a whole shard.
            places: Rows within the shard that have data. Chunks of other rows are absent.
            values: Theirs in that order, of the array's row shape, or smaller where the rest is
                absent.
            mark: What the shard holds, `MARK_BYTES` bytes.
        """
        self.size = 0
        self._digest = blake3()
        self._mark = mark
        self._pieces = self._encode(array, rows_per_shard, places, values)

    def __iter__(self) -> Iterator[Buffer]:
        return self._pieces

    @property
    def blake3(self) -> str:
        """BLAKE3 of the pieces so far.

        The shards' files alone are hashed with it: SHA-256 takes several times as long
        (`python benchmarks/store.py --breakdown`), and every record is small.
        """
        return self._digest.hexdigest()

    def _encode(
        self,
        array: RowArray,
        rows_per_shard: int,
        places: Sequence[int],
        values: Iterable[np.ndarray],
    ) -> Iterator[Buffer]:
        index = np.full((rows_per_shard, array.tiles_per_row, 2), ABSENT, "<u8")
        for place, value in zip(places, values, strict=True):
            for number, tile in _tiles(array, value):
                data = _encoded(array, tile)
                index[place, number] = self.size, len(data) + CHECKSUM_BYTES
                yield from self._counted(data.data, _checksum(data.data))
        end = index.tobytes()
        yield from self._counted(self._mark, end, _checksum(end))

    def _counted(self, *pieces: Buffer) -> Iterator[Buffer]:
        for piece in pieces:
            self._digest.update(piece)
            self.size += len(piece)
            yield piece


def is_finite(array: RowArray, value: np.ndarray) -> bool:
    """Return whether no value, as the array stores it, is infinite or not a number."""
    # bfloat16 is kept as its bits, so the array's own type does not tell.
    kind = "bfloat16" if array.dtype == "uint16" else array.dtype
    if kind not in _INFINITY:
        return True
    infinity = _INFINITY[kind]
    signed, unsigned = _INTEGERS[value.itemsize]
    negative = infinity | 1 << (8 * value.itemsize - 1)
    return bool(value.view(signed).max() < infinity and value.view(unsigned).max() < negative)


def tail_bytes(array: RowArray, rows_per_shard: int) -> int:
    """Return the number of bytes behind the chunks of a shard: its mark and its index."""
    return MARK_BYTES + rows_per_shard * array.tiles_per_row * 16 + CHECKSUM_BYTES


def decode_tail(array: RowArray, rows_per_shard: int, blob: bytes, mark: bytes) -> np.ndarray:
    """The index in the tail of a shard, (rows_per_shard, tiles_per_row, 2) uint64.

    It holds offset and bytes of each chunk. Raises `DamagedChunkError`, also where the shard's mark
    is not `mark`.
    """
    found = blob[:MARK_BYTES]
    content, checksum = blob[MARK_BYTES:-CHECKSUM_BYTES], blob[-CHECKSUM_BYTES:]
    if len(blob) != tail_bytes(array, rows_per_shard) or differs(content, checksum):
        raise DamagedChunkError("the index of a shard is damaged")
    if found != mark:
        raise DamagedChunkError("its shard holds other images or features, as when files are moved")
    index = np.frombuffer(content, "<u8").reshape(rows_per_shard, array.tiles_per_row, 2)
    offsets, lengths = index[..., 0], index[..., 1]
    is_there = offsets != ABSENT
    # A checksum does not say that what was summed makes sense; memory is taken by these numbers.
    if (offsets[is_there] > _MOST_OFFSET).any() or (lengths[is_there] > _most(array)).any():
        raise DamagedChunkError("the index of a shard is damaged")
    return index


def _most(array: RowArray) -> int:
    """The most bytes that a chunk can have: zstd adds a little to what it cannot compress."""
    return array.tile_bytes + array.tile_bytes // 128 + 1024


def decode_tile(array: RowArray, content: np.ndarray) -> np.ndarray:
    """One tile out of the content (uint8) of its chunk, without the checksum.

    Raises `DamagedChunkError`.
    """
    data: pa.Buffer | np.ndarray = content
    if array.is_compressed:
        try:
            # Into what a tile takes, and no more: a few bytes can stand for gigabytes.
            data = _ZSTD.decompress(content, array.tile_bytes)
        except OSError as error:
            raise DamagedChunkError("a chunk cannot be decompressed") from error
    elif len(content) != array.tile_bytes:
        raise DamagedChunkError(f"a chunk has {len(content)} bytes, expected {array.tile_bytes}")
    return np.frombuffer(data, array.dtype).reshape(array.tile)


def check_chunk(chunk: np.ndarray) -> np.ndarray:
    """The content of a chunk (uint8), whose last four bytes are its checksum.

    Raises `DamagedChunkError` when they are not.
    """
    content, checksum = chunk[:-CHECKSUM_BYTES], chunk[-CHECKSUM_BYTES:]
    if differs(content, checksum):
        raise DamagedChunkError("a chunk's checksum differs")
    return content


def differs(content: bytes | np.ndarray, checksum: bytes | np.ndarray) -> bool:
    """Return whether `checksum` (four bytes) is not the crc32c of `content`."""
    data = content.data if isinstance(content, np.ndarray) else content
    return _checksum(data) != bytes(checksum)


def _checksum(content: Buffer) -> bytes:
    # Of the libraries for it, this one lets other threads run meanwhile.
    return int(crc32c(content)).to_bytes(CHECKSUM_BYTES, "little")


def _tiles(array: RowArray, value: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A row's tiles with their numbers; those wholly beyond the value are left out."""
    if array.tiles_per_row == 1 and value.shape == array.tile:
        yield 0, value
        return
    for number, corner in enumerate(product(*(range(count) for count in array.tiles))):
        starts = np.multiply(corner, array.tile)
        if (starts >= value.shape).any():
            continue
        part = value[tuple(slice(s, s + t) for s, t in zip(starts, array.tile, strict=True))]
        tile = np.zeros(array.tile, array.dtype)
        tile[tuple(slice(side) for side in part.shape)] = part
        yield number, tile


def _encoded(array: RowArray, tile: np.ndarray) -> np.ndarray:
    """The bytes (uint8) of a tile's chunk, without the checksum."""
    little = np.ascontiguousarray(tile, np.dtype(array.dtype).newbyteorder("<"))
    flat = little.reshape(-1).view(np.uint8)
    if array.is_compressed:
        return np.frombuffer(zstd.compress(flat, ZSTD_LEVEL), np.uint8)
    return flat
