"""Bytes in cells of Parquet files, read where they are asked for and never a whole file."""

import errno
from collections import OrderedDict, deque
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WINDOW_BYTES = 8 * 2**20
"""Bytes of a column that are taken at a time, unless a row is larger."""
LEAST_ROWS = 16
"""Rows that are taken at a time at least."""
KEPT_WINDOWS = 4
"""Windows of a column that are kept: threads take rows nearly in order, not in order."""
OPEN_CHUNKS = 6
"""Column chunks of row groups that are kept at a time, in all files together."""
OPEN_BYTES = 2**29
"""Bytes of pages that are kept at a time, unless those of two chunks are more."""


def read_cell(file: Path, row: int, column: str) -> bytes:
    """Return the bytes of a cell; b"" for an empty one.

    Row groups are read forward, a window of rows at a time, and the last windows are kept: rows
    asked for in order, by any number of threads, are read once, and memory does not grow with the
    file. A row from elsewhere costs the reading of its column in its row group. Writers put large
    values of a row group into one page, which is held compressed and not while it is read.

    Args:
        file: The Parquet file.
        row: Number of the row in the file, from 0.
        column: Name of a column of bytes, or of structs with a field `bytes`.

    Raises:
        OSError: With a text that says why, for a file, a row or a column that cannot be read.
    """
    try:
        stat = file.stat()
        key = (str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = _opened(key)
        if not 0 <= row < known.starts[-1]:
            raise OSError(errno.ENOENT, f"it has {known.starts[-1]} rows, and no row {row}")
        group = int(np.searchsorted(known.starts, row, side="right")) - 1
        return _chunk(key, group, column).cell(row - int(known.starts[group]))
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise OSError(errno.EIO, reason_of(error)) from error
    except OSError as error:
        if error.strerror is None:  # raised by Arrow
            raise OSError(errno.EIO, reason_of(error)) from error
        raise


def reason_of(error: Exception) -> str:
    """Return the first line of what Arrow says of an error."""
    return str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__


def bytes_leaf(schema: pa.Schema, column: str) -> str | None:
    """Return the path of the bytes in a column, "image" or "image.bytes"; None without bytes."""
    kind = schema.field(column).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column
    if pa.types.is_struct(kind) and (place := kind.get_field_index("bytes")) >= 0:
        inner = kind.field(place).type
        if pa.types.is_binary(inner) or pa.types.is_large_binary(inner):
            return f"{column}.bytes"
    return None


def chunk_of(group: pq.RowGroupMetaData, leaf: str) -> pq.ColumnChunkMetaData:
    """Return the metadata of a column of a row group."""
    columns = (group.column(place) for place in range(group.num_columns))
    return next(column for column in columns if column.path_in_schema == leaf)


def opened_parquet(file: Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file whose columns are read as they are asked for.

    Raises what Arrow does for a file that is none, is cut short or encrypted.
    """
    # Without `pre_buffer`, a column is read page by page and not a row group at once.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, **options)


class _Known:
    """Footer of a file, and the first row of each row group, then the number of rows."""

    def __init__(self, path: str) -> None:
        with opened_parquet(Path(path)) as file:
            self.metadata = file.metadata
            self.schema = file.schema_arrow
        counts = [self.metadata.row_group(n).num_rows for n in range(self.metadata.num_row_groups)]
        self.starts = np.cumsum([0, *counts])


_Key = tuple[str, int, int, int]


@lru_cache(maxsize=64)
def _opened(key: _Key) -> _Known:
    return _Known(key[0])


_chunks: OrderedDict[tuple[_Key, int, str], "_Chunk"] = OrderedDict()
_lock = Lock()


def _chunk(key: _Key, group: int, column: str) -> "_Chunk":
    with _lock:
        found = _chunks.get((key, group, column))
        if found is None:
            found = _chunks[key, group, column] = _Chunk(key, group, column)
        _chunks.move_to_end((key, group, column))
        held = sum(chunk.held for chunk in _chunks.values())
        while len(_chunks) > OPEN_CHUNKS or (len(_chunks) > 2 and held > OPEN_BYTES):
            held -= _chunks.popitem(last=False)[1].held
        return found


class _Chunk:
    """Column of one row group, read forward a window at a time.

    Attributes:
        held: About the bytes of pages that it keeps.
    """

    def __init__(self, key: _Key, group: int, column: str) -> None:
        self._key, self._group, self._column = key, group, column
        self._lock = Lock()
        self._windows: deque[tuple[int, pa.Array]] = deque(maxlen=KEPT_WINDOWS)
        self._batches: Any = None
        self._end = 0
        self.held = 0

    def cell(self, row: int) -> bytes:
        with self._lock:
            if row < self._end and not self._has(row):
                self._drop()
            while row >= self._end:
                try:
                    self._advance()
                except BaseException:
                    self._drop()
                    raise
            start, values = next(
                one for one in self._windows if one[0] <= row < one[0] + len(one[1])
            )
            value = values[row - start].as_py()
            return b"" if value is None else bytes(value)

    def _has(self, row: int) -> bool:
        return bool(self._windows) and self._windows[0][0] <= row < self._end

    def _drop(self) -> None:
        self._windows.clear()
        self._batches, self._end, self.held = None, 0, 0

    def _begin(self) -> None:
        known = _opened(self._key)
        leaf = bytes_leaf(known.schema, self._column)
        if leaf is None:
            raise OSError(errno.EIO, f"its column {self._column} holds no bytes")
        group = known.metadata.row_group(self._group)
        chunk = chunk_of(group, leaf)
        size = chunk.total_uncompressed_size
        rows = max(LEAST_ROWS, WINDOW_BYTES * group.num_rows // max(size, 1))
        file = opened_parquet(Path(self._key[0]), metadata=known.metadata)
        self._batches = file.iter_batches(
            min(rows, group.num_rows), row_groups=[self._group], columns=[leaf], use_threads=False
        )
        self.held = size + chunk.total_compressed_size

    def _advance(self) -> None:
        if self._batches is None:
            self._begin()
        batch = next(self._batches, None)
        if batch is None or not len(batch):
            raise OSError(errno.EIO, f"row group {self._group} ends after {self._end} rows")
        values = batch.column(0)
        if pa.types.is_struct(values.type):
            values = values.flatten()[0]
        self._windows.append((self._end, values))
        self._end += len(values)
        if self._end == _opened(self._key).metadata.row_group(self._group).num_rows:
            # With the reader go its pages.
            self._batches, self.held = None, 0
