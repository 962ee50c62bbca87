"""Check of one shard: its file against its ledger entry, and its content."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from blake3 import blake3

from declip_pipeline.store.format import RowArray
from declip_pipeline.store.records import ShardFile
from declip_pipeline.store.shards import (
    ABSENT,
    DamagedChunkError,
    check_chunk,
    decode_tail,
    decode_tile,
    is_finite,
    tail_bytes,
)
from declip_pipeline.store.storage import Storage

# What is held of a shard at a time; one chunk is held whole, however large.
PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Damage:
    """Damage of a file, in one line, with the rows of its shard that cannot be trusted.

    Rows are counted from the shard's first.
    """

    what: str
    rows: frozenset[int]


@dataclass(frozen=True)
class _Chunk:
    start: int
    stop: int
    row: int


def check_size(file: ShardFile, size: int | None, rows: Iterable[int]) -> Damage | None:
    """Hold a shard's file of `size` bytes, None where there is none, against its ledger entry.

    `rows` are those that it should hold. Returns None when all is well.
    """
    if size is None:
        return Damage("its file is missing", frozenset(rows))
    if size != file.bytes:
        return Damage(f"it has {size} bytes, the ledger says {file.bytes}", frozenset(rows))
    return None


def check_content(
    storage: Storage,
    key: str,
    array: RowArray,
    file: ShardFile,
    *,
    windows: Mapping[int, Sequence[int]],
    rows_per_shard: int,
    mark: bytes,
    is_layout_certain: bool,
) -> Damage | None:
    """Read a shard's file, of the size that the ledger says, once from beginning to end, in pieces.

    `windows` maps the rows that must be there to the part of each that must be: its shape, or
    the image's size for masks. Other rows must be absent; `mark` is the shard's. When the
    layout of the chunks is not certain, only the file's hash is checked. Returns None when all is
    well.
    """
    wrong: dict[str, set[int]] = {}
    chunks: list[_Chunk] = []
    if is_layout_certain:
        try:
            blob = storage.read_tail(key, tail_bytes(array, rows_per_shard))
            index = decode_tail(array, rows_per_shard, blob or b"", mark)
            chunks = _chunks(index, file.bytes - tail_bytes(array, rows_per_shard))
            _check_presence(array, index, windows, wrong)
        except DamagedChunkError as error:
            wrong[str(error)] = set(windows)
    digest = blake3()
    for start, stop, inside in _pieces(chunks, file.bytes):
        piece = np.empty(stop - start, np.uint8)
        if not storage.read_part(key, start, [piece]):
            return Damage("its file vanished while it was read", frozenset(windows))
        digest.update(piece.data)
        for chunk in inside:
            try:
                content = check_chunk(piece[chunk.start - start : chunk.stop - start])
                if not is_finite(array, decode_tile(array, content)):
                    raise DamagedChunkError("a value is infinite or not a number")
            except DamagedChunkError as error:
                wrong.setdefault(str(error), set()).add(chunk.row)
    if wrong:
        return Damage("; ".join(wrong), frozenset.union(*map(frozenset, wrong.values())))
    if digest.hexdigest() != file.blake3:
        whole = ", though every chunk is whole: as when files are swapped"
        return Damage(
            f"its BLAKE3 hash is not that in the ledger{whole if is_layout_certain else ''}",
            frozenset(windows),
        )
    return None


def _chunks(index: np.ndarray, end: int) -> list[_Chunk]:
    """The chunks in the order of the file. Raises `DamagedChunkError` unless they fill it."""
    chunks = [
        _Chunk(offset, offset + length, row)
        for row, tiles in enumerate(index.tolist())
        for offset, length in tiles
        if offset != ABSENT
    ]
    chunks.sort(key=lambda chunk: chunk.start)
    starts = [chunk.start for chunk in chunks] + [end]
    stops = [0] + [chunk.stop for chunk in chunks]
    if starts != stops:
        raise DamagedChunkError("its chunks do not lie one behind another up to its index")
    return chunks


def _check_presence(
    array: RowArray,
    index: np.ndarray,
    windows: Mapping[int, Sequence[int]],
    wrong: dict[str, set[int]],
) -> None:
    starts = [
        np.multiply(corner, array.tile)
        for corner in product(*(range(count) for count in array.tiles))
    ]
    for row, is_there in enumerate((index[..., 0] != ABSENT).tolist()):
        window = windows.get(row)
        if window is None:
            if any(is_there):
                wrong.setdefault("a row is there that should be absent", set()).add(row)
            continue
        needed = [bool((start < window).all()) for start in starts]
        if any(need and not there for need, there in zip(needed, is_there, strict=True)):
            wrong.setdefault("a row is absent", set()).add(row)


def _pieces(chunks: Sequence[_Chunk], size: int) -> Iterator[tuple[int, int, list[_Chunk]]]:
    """The whole file in pieces, (start, stop, chunks inside); no chunk is cut."""
    start, inside = 0, list[_Chunk]()
    for chunk in chunks:
        if inside and chunk.stop - start > PIECE_BYTES:
            yield start, inside[-1].stop, inside
            start, inside = inside[-1].stop, []
        inside.append(chunk)
    if inside:
        yield start, inside[-1].stop, inside
        start = inside[-1].stop
    for position in range(start, size, PIECE_BYTES):
        yield position, min(position + PIECE_BYTES, size), []
