"""A CSV file with a column of pictures and a column of masks, and more where known."""

import csv
from collections.abc import Mapping
from pathlib import Path

from declip_pipeline.datasets.listed_files import NEGATIVE, Listed, is_negative, read_listed
from declip_pipeline.datasets.manifest import REAL_GENERATOR, Manifest
from declip_pipeline.datasets.splits import SPLIT_NAMES, UNSPLIT, split_named
from declip_pipeline.errors import InputError, UnknownNameError

COLUMNS = ("image", "mask", "split", "generator", "source", "label")
EXPECTED = f"a .csv file whose first line is image,mask (or more of {','.join(COLUMNS)})"
FAKE_IS_WHITE = True


def read_csv_list(file: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read the file; a mask that is empty or "Negative" makes the picture a real one.

    `split` is train, valid (or val), test, or empty for none; `generator` and `source` are by
    default `name`, the generator of a real picture always "real"; `label`, 1 fake or 0 real, must
    agree with the mask. Columns come in any order and case.

    Raises `InputError` naming the line, `UnknownNameError` for a column, and as `read_listed` does.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            columns = [column.strip().lower() for column in next(reader, [])]
            _refuse_columns(file, columns)
            listed = [
                _listed(f"{file}, line {reader.line_num}", columns, row, name)
                for row in reader
                if any(cell.strip() for cell in row)
            ]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not CSV in UTF-8 ({error}); expected {EXPECTED}") from error
    unsplit = sum(entry.split == UNSPLIT for entry in listed)
    if 0 < unsplit < len(listed):
        raise InputError(
            f"{file}: {unsplit} of {len(listed)} pictures have no split; name one for each, or none"
        )
    return read_listed(
        file, listed, name=name, fake_is_white=fake_is_white, allow_unpaired=allow_unpaired
    )


def _refuse_columns(file: Path, columns: list[str]) -> None:
    for needed in ("image", "mask"):
        if needed not in columns:
            shown = ",".join(columns)[:80] or "empty"
            raise InputError(f"{file} has no column {needed} ({shown}); expected {EXPECTED}")
    for column in columns:
        if column not in COLUMNS:
            raise UnknownNameError(f"column of {file}", column, COLUMNS)
        if columns.count(column) > 1:
            raise InputError(f"{file} has two columns {column}; remove one of them")


def _listed(where: str, columns: list[str], row: list[str], name: str) -> Listed:
    if len(row) != len(columns):
        raise InputError(f"{where} has {len(row)} cells; {len(columns)} expected, as in line 1")
    cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
    if not cells["image"]:
        raise InputError(f"{where} names no picture; fill in image or remove the line")
    is_real = is_negative(cells["mask"])
    _refuse_label(where, cells, is_real)
    split = cells.get("split") or UNSPLIT
    known = UNSPLIT if split == UNSPLIT else split_named(split)
    if known is None:
        raise UnknownNameError(f"split in {where}", split, SPLIT_NAMES)
    generator = REAL_GENERATOR if is_real else cells.get("generator") or name
    if not is_real and generator == REAL_GENERATOR:
        raise InputError(f"{where} has a mask and generator real; name what made the fake")
    source = cells.get("source") or name
    return Listed(cells["image"], None if is_real else cells["mask"], known, generator, source)


def _refuse_label(where: str, cells: Mapping[str, str], is_real: bool) -> None:
    label = cells.get("label")
    if not label:
        return
    if label not in ("0", "1"):
        raise InputError(f"{where} has label {label!r}; 1 fake or 0 real expected")
    if label == "0" and not is_real:
        raise InputError(f"{where} has label 0 and a mask; a real picture has {NEGATIVE} for mask")
    if label == "1" and is_real:
        raise InputError(f"{where} has label 1 and no mask; a fake needs its mask")
