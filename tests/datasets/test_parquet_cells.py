"""Cells of Parquet files: read by row, forward, in little memory, whatever asks."""

import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from declip_pipeline.datasets import parquet_cells
from declip_pipeline.datasets.parquet_cells import read_cell

ROWS, BYTES = 240, 8192


def content(row: int) -> bytes:
    return np.random.default_rng(row).bytes(BYTES + row)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_cells, "WINDOW_BYTES", 4 * BYTES)
    monkeypatch.setattr(parquet_cells, "LEAST_ROWS", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Bytes in structs as in plain columns, in row groups of 60 rows."""
    cells = [content(row) for row in range(ROWS)]
    structs = [{"path": "x.png", "bytes": cell} for cell in cells]
    columns = {"image": structs, "plain": cells, "row": range(ROWS), "empty": [None] * ROWS}
    schema = pa.schema(
        [
            ("image", pa.struct([("path", pa.string()), ("bytes", pa.binary())])),
            ("plain", pa.large_binary()),
            ("row", pa.int64()),
            ("empty", pa.binary()),
        ]
    )
    table = pa.table({k: pa.array(v, schema.field(k).type) for k, v in columns.items()}, schema)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=60)
    return tmp_path / "rows.parquet"


@pytest.mark.parametrize("column", ["image", "plain"])
def test_every_row_in_any_order(file: Path, small_windows: None, column: str) -> None:
    rows = [*range(ROWS), *random.Random(0).sample(range(ROWS), 40)]
    assert all(read_cell(file, row, column) == content(row) for row in rows)
    assert read_cell(file, 7, "empty") == b""


def test_threads_that_take_rows_nearly_in_order(file: Path, small_windows: None) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda row: read_cell(file, row, "image"), range(ROWS))
        assert list(found) == [content(row) for row in range(ROWS)]


def test_rows_in_order_are_read_once_and_little_is_kept(
    file: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = parquet_cells._Chunk._begin

    def counted(chunk: parquet_cells._Chunk) -> None:
        begun.append(chunk._group)
        begin(chunk)

    monkeypatch.setattr(parquet_cells._Chunk, "_begin", counted)
    for row in range(ROWS):
        read_cell(file, row, "image")
    assert begun == [0, 1, 2, 3]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    cells = [np.random.default_rng(row).bytes(2**15) for row in range(1000)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "large.parquet", row_group_size=50)
    parquet_cells._chunks.clear()
    before, most = pa.total_allocated_bytes(), 0
    for row, cell in enumerate(cells):
        assert read_cell(tmp_path / "large.parquet", row, "image") == cell
        most = max(most, pa.total_allocated_bytes() - before)
    group = 50 * 2**15
    # Windows of the last groups, and what is read of one; the file has twenty.
    assert most < (parquet_cells.OPEN_CHUNKS + 4) * group < 20 * group


def test_pages_of_other_groups_are_let_go(
    file: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_cells, "OPEN_BYTES", 3 * 60 * BYTES)
    parquet_cells._chunks.clear()
    for row in (0, 60, 120, 180, 1, 61):
        assert read_cell(file, row, "plain") == content(row)
    assert len(parquet_cells._chunks) == 2
    for row in range(ROWS):
        read_cell(file, row, "plain")
    assert sum(chunk.held for chunk in parquet_cells._chunks.values()) == 0


def test_a_row_costs_its_row_group_and_no_other(file: Path) -> None:
    read = [0]

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            read[0] += len(data)
            return data

    opened = parquet_cells.opened_parquet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            parquet_cells,
            "opened_parquet",
            lambda path, **options: opened(Counted(path.read_bytes()), **options),
        )
        assert read_cell(file, ROWS - 1, "plain") == content(ROWS - 1)
    assert 60 * BYTES <= read[0] < 90 * BYTES


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    assert read_cell(file, 3, "plain") == content(3)
    pq.write_table(pa.table({"plain": [b"a", b"b"]}), file)
    assert read_cell(file, 1, "plain") == b"b"


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (ROWS, "image", "it has 240 rows, and no row 240"),
        (0, "row", "its column row holds no bytes"),
        (0, "absent", "absent"),
    ],
)
def test_what_is_not_there_is_said(file: Path, row: int, column: str, message: str) -> None:
    with pytest.raises(OSError, match=message) as caught:
        read_cell(file, row, column)
    assert caught.value.strerror


def test_damaged_pages_and_other_files_are_said_in_one_line(file: Path, tmp_path: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[4:400] = bytes(396)  # the header of the first page
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    (tmp_path / "other.parquet").write_bytes(b"PK\x03\x04" + bytes(100))
    for name in ("damaged", "other"):
        with pytest.raises(OSError) as caught:
            read_cell(tmp_path / f"{name}.parquet", 0, "image")
        assert caught.value.strerror and "\n" not in caught.value.strerror
    with pytest.raises(FileNotFoundError):
        read_cell(tmp_path / "absent.parquet", 0, "image")
