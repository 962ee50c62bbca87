"""CPU time of each check of a store's bytes, and of each way of moving them.

Called by `python benchmarks/store.py --breakdown`. CPU time of the one thread that works, so that
other programs of a shared machine disturb it little: they only take caches and memory bandwidth.
Contestants take turns; given are the best and the median of all turns.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import google_crc32c
import numpy as np
from awscrt.checksums import crc32c
from blake3 import blake3
from crc32c import crc32c as crc32c_package
from reporting import report

from declip_pipeline.store.format import RowArray
from declip_pipeline.store.shards import MARK_BYTES, EncodedShard, is_finite
from declip_pipeline.store.write_back import write_pieces

ROWS = 64
REPEATS = 25
SHARDS = 3
RUN_ROWS = 3
BATCH = 32
MARK = bytes(MARK_BYTES)
CAT_BYTES = 128 * 1024

Work = Callable[[], object]


def breakdown(root: Path, row_shape: tuple[int, ...]) -> None:
    """Measure all steps on shards of random float16 rows, and report them as `store_breakdown`."""
    array = RowArray("layers/layer", "float16", row_shape, row_shape, is_compressed=False)
    shards = np.random.default_rng(0).standard_normal((SHARDS, ROWS, *row_shape))
    rows = [row for shard in shards.astype(np.float16) for row in shard]
    steps = {
        "finite values": _finite_steps(array, rows),
        "checksum of each chunk": _checksum_steps(rows),
        "hash of the file": _hash_steps(rows),
        "all checks": _pass_steps(array, rows),
        "write to the page cache": _write_steps(array, rows, root / "written"),
        "read from the page cache": _read_steps(array, rows, root / "read"),
        "encode small arrays": _small_steps(),
    }
    gigabytes = sum(row.nbytes for row in rows) / 1e9
    seconds = _cpu_seconds({(what, how): work for what, of in steps.items() for how, work in of})
    table = [
        {
            "step": what,
            "how": how,
            "ms/shard": 1e3 * min(times) / SHARDS,
            "median ms/shard": 1e3 * median(times) / SHARDS,
            "GB/s": "" if what == "encode small arrays" else gigabytes / min(times),
        }
        for (what, how), times in seconds.items()
    ]
    settings = {
        "megabytes_per_shard": 1e3 * gigabytes / SHARDS,
        "rows_per_shard": ROWS,
        "repeats": REPEATS,
        "clock": "CPU time of the working thread",
        "ms/shard": "best of all turns",
    }
    report("store_breakdown", table, settings)


def _cpu_seconds(steps: dict[tuple[str, str], Work]) -> dict[tuple[str, str], list[float]]:
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, work in steps.items():
            started = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - started)
    return seconds


def _of_all(rows: Iterable[np.ndarray], check: Callable[[np.ndarray], object]) -> Work:
    def work() -> None:
        for row in rows:
            check(row)

    return work


def _finite_steps(array: RowArray, rows: list[np.ndarray]) -> list[tuple[str, Work]]:
    def by_exponents(row: np.ndarray) -> bool:
        return not (np.bitwise_and(row.view(np.uint16), 0x7C00) == 0x7C00).any()

    return [
        ("np.isfinite", _of_all(rows, lambda row: np.isfinite(row).all())),
        ("bits of the exponents", _of_all(rows, by_exponents)),
        ("two integer maxima (used)", _of_all(rows, lambda row: is_finite(array, row))),
    ]


def _checksum_steps(rows: list[np.ndarray]) -> list[tuple[str, Work]]:
    as_bytes = [row.tobytes() for row in rows[:ROWS]] * SHARDS
    return [
        ("awscrt (used)", _of_all(rows, lambda row: crc32c(_flat(row)))),
        ("crc32c package", _of_all(rows, lambda row: crc32c_package(_flat(row)))),
        ("google-crc32c", lambda: [google_crc32c.value(row) for row in as_bytes]),
    ]


def _hash_steps(rows: list[np.ndarray]) -> list[tuple[str, Work]]:
    pieces = [_flat(row) for row in rows]
    # What a hash over checksums and index would be given: 4 and 16 bytes a chunk.
    summary = [bytes(20)] * len(rows)

    def hashed(new: Callable[[], Any], pieces: Iterable[bytes | memoryview]) -> Work:
        def work() -> None:
            digest = new()
            for piece in pieces:
                digest.update(piece)
            digest.hexdigest()

        return work

    return [
        ("SHA-256 (OpenSSL)", hashed(hashlib.sha256, pieces)),
        ("BLAKE3, one thread (used)", hashed(blake3, pieces)),
        ("SHA-256 of the chunks' crc32c and the index", hashed(hashlib.sha256, summary)),
    ]


def _pass_steps(array: RowArray, rows: list[np.ndarray]) -> list[tuple[str, Work]]:
    pieces = [_flat(row) for row in rows]

    def several() -> None:
        for row in rows:
            is_finite(array, row)
        digest = blake3()
        for piece in pieces:
            crc32c(piece)
        for piece in pieces:
            digest.update(piece)

    def one() -> None:
        digest = blake3()
        for row, piece in zip(rows, pieces, strict=True):
            is_finite(array, row)
            crc32c(piece)
            digest.update(piece)

    return [("three passes over a shard", several), ("one pass, row by row (used)", one)]


def _write_steps(array: RowArray, rows: list[np.ndarray], file: Path) -> list[tuple[str, Work]]:
    shards = [
        list(EncodedShard(array, ROWS, range(ROWS), rows[ROWS * n : ROWS * n + ROWS], MARK))
        for n in range(SHARDS)
    ]
    size = sum(map(len, shards[0]))
    whole = np.empty(size, np.uint8)
    page = os.sysconf("SC_PAGE_SIZE")
    stride = -(-(array.tile_bytes + 4) // page) * page

    def into_file(write: Callable[[int, list], object]) -> Work:
        def work() -> None:
            for pieces in shards:
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                try:
                    write(descriptor, pieces)
                finally:
                    os.close(descriptor)

        return work

    def row_by_row(descriptor: int, pieces: list) -> None:
        for first in range(0, len(pieces), 2):
            os.writev(descriptor, pieces[first : first + 2])

    def aligned(descriptor: int, pieces: list) -> None:
        for first in range(0, len(pieces), 2):
            os.pwritev(descriptor, pieces[first : first + 2], first // 2 * stride)

    def allocated(descriptor: int, pieces: list) -> None:
        os.posix_fallocate(descriptor, 0, size)
        os.writev(descriptor, pieces)

    def one_buffer(descriptor: int, pieces: list) -> None:
        offset = 0
        for piece in pieces:
            whole[offset : offset + len(piece)] = np.frombuffer(piece, np.uint8)
            offset += len(piece)
        os.write(descriptor, whole.data)

    return [
        ("a few megabytes a call, the disk told to begin (used)", into_file(write_pieces)),
        ("all pieces by one writev", into_file(os.writev)),
        ("writev row by row", into_file(row_by_row)),
        ("pwritev, chunks at page boundaries", into_file(aligned)),
        ("fallocate, then writev", into_file(allocated)),
        ("copied into one buffer, one write", into_file(one_buffer)),
    ]


def _read_steps(array: RowArray, rows: list[np.ndarray], file: Path) -> list[tuple[str, Work]]:
    size = array.tile_bytes + 4
    with file.open("wb", buffering=0) as opened:
        for row in rows:
            opened.write(row.tobytes() + b"0000")
    descriptor = os.open(file, os.O_RDONLY)
    mapped = np.memmap(file, np.uint8, "r")
    again = np.ones((BATCH, array.tile_bytes), np.uint8)
    small, end = np.ones(CAT_BYTES, np.uint8), np.ones((BATCH, 4), np.uint8)

    def read(fresh: bool, check: bool, step: int = RUN_ROWS) -> Work:
        def work() -> None:
            for start in range(0, len(rows), BATCH):
                # Larger than what the allocator keeps: as it is among a training's other arrays.
                out = np.empty((4 * BATCH, array.tile_bytes), np.uint8)[:BATCH] if fresh else again
                for first in range(0, BATCH, step):
                    chosen = range(first, min(first + step, BATCH))
                    buffers = [part for k in chosen for part in (out[k], end[k])]
                    os.preadv(descriptor, buffers, (start + first) * size)
                    if check:
                        for k in chosen:
                            crc32c(out[k].data)

        return work

    def as_cat() -> None:
        for offset in range(0, len(rows) * size, CAT_BYTES):
            os.preadv(descriptor, [small], offset)

    def from_map() -> None:
        for number in range(len(rows)):
            row = mapped[number * size : number * size + array.tile_bytes]
            crc32c(row.data)
            again[number % BATCH] = row

    return [
        ("as cat: 128 KB at a time, into the same buffer", as_cat),
        ("into new memory", read(fresh=True, check=False)),
        ("into memory used again", read(fresh=False, check=False)),
        ("into new memory, and crc32c", read(fresh=True, check=True)),
        ("into memory used again, and crc32c (used)", read(fresh=False, check=True)),
        ("the same, row by row", read(fresh=False, check=True, step=1)),
        ("crc32c of a memory map, then copied", from_map),
    ]


def _small_steps() -> list[tuple[str, Work]]:
    target = np.zeros((256, 256), np.uint8)
    target[60:130, 70:180] = 255
    mask = np.zeros((224, 224), bool)
    mask[50:120, 60:160] = True
    steps = []
    for name, value in {"targets": target, "masks": mask}.items():
        array = RowArray(name, str(value.dtype), value.shape, value.shape, is_compressed=True)
        values = [value] * ROWS

        def work(array: RowArray = array, values: list[np.ndarray] = values) -> None:
            for _ in range(SHARDS):
                deque(EncodedShard(array, ROWS, range(ROWS), values, MARK), 0)

        steps.append((f"{name}, zstd and crc32c", work))
    return steps


def _flat(row: np.ndarray) -> memoryview:
    return row.reshape(-1).view(np.uint8).data
