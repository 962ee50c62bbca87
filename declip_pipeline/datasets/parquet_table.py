"""Tables of Parquet files: all columns but the bytes, and which of them holds what."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from declip_pipeline.datasets.contents import cell_address
from declip_pipeline.datasets.listing import list_files, stem_of
from declip_pipeline.datasets.parquet_cells import (
    bytes_leaf,
    chunk_of,
    opened_parquet,
    reason_of,
)
from declip_pipeline.datasets.sample import FAKE, REAL, UNKNOWN
from declip_pipeline.datasets.splits import split_named
from declip_pipeline.errors import InputError, UnknownNameError

EXPECTED = ".parquet files with a column of images and one of masks, as bytes"
SUFFIX = ".parquet"
NONE = "none"
"""Given for the column of masks: there are none, of no image is it said whether it is fake."""

NAMES_OF_COLUMNS = {
    "image": ("image", "img", "picture", "tampered", "forged"),
    "mask": ("mask", "gt", "groundtruth", "ground_truth", "mask_image"),
    "label": ("label", "labels", "is_fake"),
    "generator": ("generator", "model"),
    "split": ("split",),
    "source": ("source",),
    "scene": ("scene",),
    "key": ("key", "__key__", "id", "image_id", "name", "filename", "file_name"),
}
"""Names that are recognised for each column, in any case; the first that occurs is taken."""

_SHARD = re.compile(r"(?P<part>.+)-\d+-of-\d+")
_REAL_NAMES = frozenset({"real", "authentic", "pristine", "original", "au", "negative", "0"})
_FAKE_NAMES = frozenset(
    {"fake", "tampered", "manipulated", "forged", "edited", "synthetic", "tp", "positive", "1"}
)
ROW_DIGITS = 6


@dataclass
class Table:
    """Rows of the files of a dataset; a list for each column, in the files' order.

    Attributes:
        file: Posix path of each row's file below the root.
        row: Number of the row in its file.
        part: Name before the number of the shard ("train", "sd15"), or "" without one.
        label: As in `Sample`.
        has_mask: Whether the row has a mask.
        texts: Other columns that were found, "" in an empty cell.
        columns: Name in the files of each column that was found.
    """

    file: list[str] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    part: list[str] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    has_mask: list[bool] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def address(self, column: str, place: int) -> str:
        """Return the address of an image or a mask."""
        return cell_address(self.file[place], self.row[place], self.columns[column])

    def ids(self) -> list[str]:
        """Return shard, row and key of each row: rows by id are rows in the files' order."""
        keys = self.texts.get("key") or [""] * len(self.row)
        return [
            f"{stem_of(file)}/{row:0{ROW_DIGITS}d}" + (f"/{stem_of(key)}" if key else "")
            for file, row, key in zip(self.file, self.row, keys, strict=True)
        ]


def read_table(root: Path, *, columns: Mapping[str, str] | None = None) -> tuple[Path, Table]:
    """Read all columns but the bytes; returns the dataset's root and the table.

    Raises as `read_parquet`.
    """
    top, files = parquet_files(root)
    table = Table()
    for path in files:
        try:
            _add_file(table, top, path, columns or {})
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(top / path, error) from error
    if not table.row:
        raise InputError(f"{root} has no rows; expected {EXPECTED}")
    return top, table


def parquet_files(root: Path) -> tuple[Path, list[str]]:
    """Return the root of a dataset in Parquet files, and their posix paths below it, sorted."""
    if not root.is_dir():
        return root.parent, [root.name]
    files = [path for path in list_files(root).others if is_named_so(path)]
    if not files:
        raise InputError(f"no .parquet files found under {root}; expected {EXPECTED}")
    return root, files


def column_names(file: Path) -> list[str]:
    """Return the names of a file's columns. Raises `InputError` for a file that cannot be read."""
    with _opened(file) as opened:
        names: list[str] = opened.schema_arrow.names
        return names


def is_named_so(path: str) -> bool:
    return path.lower().endswith(SUFFIX)


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return opened_parquet(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or reason_of(error)
    return InputError(
        f"{file} cannot be read as Parquet ({reason}); it may be another kind of file, cut short "
        "or encrypted; expected a whole .parquet file"
    )


def _add_file(table: Table, top: Path, path: str, given: Mapping[str, str]) -> None:
    with _opened(top / path) as file:
        schema = file.schema_arrow
        found = _columns(top / path, schema, given)
        if table.row and found != table.columns:
            raise InputError(
                f"{top / path} has the columns {', '.join(schema.names)}, and {table.file[0]} "
                "others; expected the same in all files of a dataset"
            )
        _require_bytes(top / path, file, found["image"])
        table.columns = found
        count = file.metadata.num_rows
        if not count:
            return
        others = [name for role, name in found.items() if role not in ("image", "mask")]
        cells = file.read(columns=others, use_threads=False)
        labels = None
        if "label" in found:
            labels = _labels(top / path, schema, cells.column(found["label"]), found["label"])
        has_mask = np.zeros(count, bool)
        if "mask" in found:
            is_needed = np.ones(count, bool) if labels is None else labels == FAKE
            has_mask = ~_nulls(file, found["mask"], is_needed)
        if labels is None:
            none = REAL if "mask" in found else UNKNOWN
            labels = np.where(has_mask, FAKE, none)
        elif "mask" not in found:
            labels = np.full(count, UNKNOWN)
        table.file += [path] * count
        table.row += range(count)
        match = _SHARD.fullmatch(PurePosixPath(path).stem)
        stem = PurePosixPath(path).stem
        part = match["part"] if match else stem if split_named(stem) else ""
        table.part += [part] * count
        table.label += labels.tolist()
        table.has_mask += has_mask.tolist()
        for role, name in found.items():
            if role not in ("image", "mask", "label"):
                table.texts.setdefault(role, []).extend(_texts(cells.column(name)))


def _columns(file: Path, schema: pa.Schema, given: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each column that is there, by what it holds."""
    shown = ", ".join(schema.names) or "none"
    for role, name in given.items():
        if role not in NAMES_OF_COLUMNS:
            raise UnknownNameError("column in `columns`", role, NAMES_OF_COLUMNS)
        if name not in schema.names and (role, name) != ("mask", NONE):
            raise InputError(f"{file} has no column {name!r} for {role}; it has {shown}")
    by_name = {name.lower(): name for name in reversed(schema.names)}
    found = {}
    for role, names in NAMES_OF_COLUMNS.items():
        known = [by_name[one] for one in names if one in by_name]
        if role in given or known:
            found[role] = given.get(role) or known[0]
    if found.get("mask") == NONE and given.get("mask") == NONE:
        del found["mask"]
    elif "mask" not in found and "image" in found:
        raise InputError(
            f"{file} has no column of masks; it has {shown}; name it with "
            f"`columns={{'mask': 'NAME'}}`, or take its images without masks with "
            f"`columns={{'mask': '{NONE}'}}`"
        )
    if "image" not in found:
        raise InputError(
            f"{file} has no column of images; it has {shown}; name it with "
            "`columns={'image': 'NAME'}`"
        )
    for role in ("image", "mask"):
        if role in found and bytes_leaf(schema, found[role]) is None:
            raise InputError(
                f"{file}: column {found[role]} holds {schema.field(found[role]).type}; bytes, or "
                f"structs with bytes, expected; name another with `columns={{'{role}': 'NAME'}}`"
            )
    return found


def _labels(file: Path, schema: pa.Schema, cells: pa.ChunkedArray, column: str) -> np.ndarray:
    """Return labels, (N,) int64: by the names of a class label, or 1 fake and 0 real."""
    names = _class_names(schema, column)
    of_value: dict[Any, int] = {0: REAL, 1: FAKE}
    if names is not None:
        of_value = {number: _label_named(name) for number, name in enumerate(names)}
    values = cells.to_pylist()
    labels = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        label = _label_named(value) if isinstance(value, str) else of_value.get(value, UNKNOWN)
        if label == UNKNOWN and value not in (-1, None):
            known = f" ({', '.join(names)})" if names else ""
            raise InputError(
                f"{file}, row {row} has label {value!r} in column {column}{known}; 1 or fake, and "
                "0 or real, expected; name another column with `columns={'label': 'NAME'}`"
            )
        labels[row] = label
    return labels


def _label_named(name: str) -> int:
    lower = name.strip().lower()
    return REAL if lower in _REAL_NAMES else FAKE if lower in _FAKE_NAMES else UNKNOWN


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the names of the classes of a label, from Hugging Face's metadata of the schema."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _nulls(file: pq.ParquetFile, column: str, is_needed: np.ndarray) -> np.ndarray:
    """Return which rows have no bytes in a column, (N,) bool; True where that is not needed.

    What the statistics of a row group leave open is read.
    """
    leaf = str(bytes_leaf(file.schema_arrow, column))
    nulls = np.ones(len(is_needed), bool)
    start = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        end = start + group.num_rows
        chunk = chunk_of(group, leaf)
        known = _null_count(chunk)
        if (known is None and is_needed[start:end].any()) or (known and known < group.num_rows):
            at = start
            for batch in file.iter_batches(
                256, row_groups=[number], columns=[leaf], use_threads=False
            ):
                values = batch.column(0)
                if pa.types.is_struct(values.type):
                    values = values.flatten()[0]
                nulls[at : at + len(values)] = np.asarray(values.is_null())
                at += len(values)
        elif known == 0:
            nulls[start:end] = False
        start = end
    nulls |= ~is_needed
    return nulls


def _require_bytes(file: Path, opened: pq.ParquetFile, column: str) -> None:
    leaf = str(bytes_leaf(opened.schema_arrow, column))
    metadata = opened.metadata
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    if metadata.num_rows and all(
        _null_count(chunk_of(group, leaf)) == group.num_rows for group in groups
    ):
        raise InputError(
            f"{file}: column {column} holds no bytes in any row (paths at most); expected the "
            "images themselves"
        )


def _null_count(chunk: pq.ColumnChunkMetaData) -> int | None:
    statistics = chunk.statistics if chunk.is_stats_set else None
    if statistics is None or not statistics.has_null_count:
        return None
    return int(statistics.null_count)


def _texts(cells: pa.ChunkedArray) -> list[str]:
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    return [str(one) for one in pc.fill_null(cells.cast(pa.string()), "").to_pylist()]
