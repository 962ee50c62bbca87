"""Lists of images and masks: a JSON list of pairs, or a CSV file with a column for each."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.table import tabled_samples
from declip_pipeline.errors import InputError, UnknownNameError

FAKE_IS_WHITE = True
JSON_EXPECTED = 'a .json file with a list of [image, mask | "Negative"]'
BENCO_DATASETS = ("ManiDataset", "JsonDataset")
CSV_COLUMNS = ("image", "mask", "split", "generator", "source", "label", "scene")
CSV_EXPECTED = f"a .csv file whose first line is image,mask (or more of {','.join(CSV_COLUMNS)})"


def read_json_list(file: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read a list of [image, mask], or [image, "Negative"] for a real image.

    It has no splits, and every fake is of generator and source `name`. The form is that of
    `JsonDataset` in IMDL-BenCo (Ma et al., NeurIPS 2024, arXiv 2406.10580); its files that list
    datasets, for `BalancedDataset` and for testing, are refused with the names of these.

    Raises:
        InputError: For another content, an image that is listed twice, and files that do not exist
            unless `allow_unpaired`.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); expected {JSON_EXPECTED}") from error
    _refuse_datasets(file, value)
    if not isinstance(value, list):
        raise InputError(f"{file} holds no list; expected {JSON_EXPECTED}")
    for number, entry in enumerate(value, start=1):
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or not all(isinstance(path, str) for path in entry) or not entry[0].strip():
            raise InputError(f"{file}: entry {number} is {_shown(entry)}; expected {JSON_EXPECTED}")
    columns = {"image": [image for image, _ in value], "mask": [mask for _, mask in value]}
    numbers = range(1, len(value) + 1)
    return _dataset(file, columns, "entry", numbers, name, fake_is_white, allow_unpaired)


def read_csv_list(file: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read a CSV file with the columns of `CSV_COLUMNS`, in any order and case.

    The columns image and mask are needed; a mask that is empty or "Negative" makes the image a
    real one. A first column without a name is a table's index and no data. Cells are as
    `Dataset.from_table` takes them.

    Raises:
        InputError: Naming the line, and as `read_json_list` does.
        UnknownNameError: For a column or a split.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            columns = [column.strip().lower() for column in next(reader, [])]
            # A table's index, as pandas writes it, and as pandas calls it when it read it.
            has_index = bool(columns) and columns[0] in ("", "unnamed: 0")
            columns = columns[has_index:]
            _refuse_columns(file, columns)
            rows: list[list[str]] = []
            lines: list[int] = []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(columns) + has_index:
                    raise InputError(
                        f"{file}, line {reader.line_num} has {len(row)} cells; "
                        f"{len(columns) + has_index} expected, as in line 1"
                    )
                rows.append(row[has_index:])
                lines.append(reader.line_num)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{file} is not CSV in UTF-8 ({error}); expected {CSV_EXPECTED}"
        ) from error
    cells = {column: [row[place].strip() for row in rows] for place, column in enumerate(columns)}
    return _dataset(file, cells, "line", lines, name, fake_is_white, allow_unpaired)


def _dataset(
    file: Path,
    columns: Mapping[str, Sequence[Any]],
    unit: str,
    numbers: Sequence[int],
    name: str,
    fake_is_white: bool,
    allow_unpaired: bool,
) -> Dataset:
    root, samples, left_out = tabled_samples(
        columns,
        folder=file.parent,
        name=name,
        table=str(file),
        unit=unit,
        numbers=numbers,
        relative_to="the list's own folder",
        allow_missing=allow_unpaired,
    )
    return Dataset(name, root, fake_is_white, samples, left_out)


def _refuse_datasets(file: Path, value: Any) -> None:
    """Raise `InputError` for a list of datasets in place of images."""
    pairs = [*value.items()] if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not pairs:
        return
    places = [
        pair[1]
        for pair in pairs
        if isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(one, str) for one in pair)
        and ("/" in pair[1] if isinstance(value, dict) else pair[0] in BENCO_DATASETS)
    ]
    if len(places) == len(pairs):
        raise InputError(
            f"{file} lists {count_and_names('dataset', places)} and no images; open each of these"
        )


def _refuse_columns(file: Path, columns: list[str]) -> None:
    for needed in ("image", "mask"):
        if needed not in columns:
            shown = ",".join(columns)[:80] or "empty"
            raise InputError(f"{file} has no column {needed} ({shown}); expected {CSV_EXPECTED}")
    for column in columns:
        if column not in CSV_COLUMNS:
            raise UnknownNameError(f"column of {file}", column, CSV_COLUMNS)
        if columns.count(column) > 1:
            raise InputError(f"{file} has two columns {column}; remove one of them")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
