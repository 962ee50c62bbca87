"""Samples from a table of paths: what tables and lists of every form have in common."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from declip_pipeline.datasets.listing import unique_ids
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.sample import (
    FAKE,
    REAL,
    REAL_GENERATOR,
    UNKNOWN,
    UNKNOWN_GENERATOR,
    UNSPLIT,
)
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import SPLIT_NAMES, split_named
from declip_pipeline.errors import InputError, UnknownNameError

COLUMNS = ("image", "mask", "split", "generator", "source", "label", "scene", "id")
NEGATIVE = "Negative"
"""Stands in a mask's place where the image is real."""

Columns = Mapping[str, Sequence[Any]]
"""Cells by the name of their column, None where a cell is empty."""


def columns_of(table: Any) -> Columns:
    """Return the columns of a DataFrame, an Arrow table, a list of dicts or a dict of columns.

    Raises:
        InputError: For another type, or columns of different lengths.
    """
    if isinstance(table, pa.Table):
        return {name: table.column(name).to_pylist() for name in table.column_names}
    if hasattr(table, "iloc"):  # a DataFrame, of pandas or what behaves as it does
        return {
            str(name): table[name].astype(object).where(table[name].notna(), None).tolist()
            for name in table.columns
        }
    if isinstance(table, Mapping):
        columns = {str(name): list(cells) for name, cells in table.items()}
        if len({len(cells) for cells in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(cells)}" for name, cells in columns.items())
            raise InputError(f"the table's columns have different lengths ({lengths})")
        return columns
    if not isinstance(table, Sequence) or not all(isinstance(row, Mapping) for row in table):
        raise InputError(
            f"the table is {type(table).__name__}; expected a pandas DataFrame, an Arrow table or "
            "a list of dicts"
        )
    names = dict.fromkeys(str(name) for row in table for name in row)
    return {name: [row.get(name) for row in table] for name in names}


def tabled_samples(
    columns: Columns,
    *,
    folder: Path,
    name: str,
    table: str = "the table",
    unit: str = "row",
    numbers: Sequence[int] | None = None,
    relative_to: str | None = None,
    allow_missing: bool | None = None,
) -> tuple[Path, Samples, tuple[str, ...]]:
    """Check the cells of a table and fill in its defaults.

    Args:
        columns: See `Dataset.from_table`. Paths are absolute, or relative to `folder`.
        folder: Root of the samples, unless some lie elsewhere.
        name: Default source, and default generator of fakes.
        table: The table, in messages.
        unit: A row, in messages.
        numbers: Number of each row, in messages; None counts from 0.
        relative_to: The folder, in messages.
        allow_missing: Leave out samples of which a file does not exist; None where that cannot be
            asked for.

    Returns:
        The nearest folder that holds all files (`folder` where it does), the samples, and the
        sorted images of those that were left out.

    Raises:
        InputError: See `Dataset.from_table`.
    """
    for column in columns:
        if column not in COLUMNS:
            raise UnknownNameError(f"column of {table}", column, COLUMNS)
    if "image" not in columns:
        shown = ", ".join(columns) or "no columns"
        raise InputError(f"{table} has no column image ({shown}); expected {', '.join(COLUMNS)}")
    count = len(columns["image"])
    if not count:
        raise InputError(f"{table} lists no images; expected at least one")

    def place_of(row: int) -> str:
        return f"{table}, {unit} {row if numbers is None else numbers[row]}"

    cells = _Cells(columns, count, place_of)
    images = cells.texts("image")
    for row, image in enumerate(images):
        if image is None:
            raise InputError(f"{place_of(row)} names no image; fill in image or remove the {unit}")
    masks = [None if is_negative(mask) else mask for mask in cells.texts("mask")]
    generators = cells.texts("generator")
    labels = cells.labels(masks, generators)
    splits = cells.splits(table)
    for row, label in enumerate(labels):
        generators[row] = _generator(label, generators[row], name, place_of, row)

    root, place = _relative_paths(folder, [path for path in (*images, *masks) if path is not None])
    missing = {
        path
        for path in place
        if not os.path.isfile(root / place[path])  # noqa: PTH113
    }
    kept = [row for row in range(count) if images[row] not in missing and masks[row] not in missing]
    if missing and not (kept and allow_missing):
        if not kept:
            way_out = f"none of its {count} samples has its files"
        elif allow_missing is None:
            way_out = "correct or remove them"
        else:
            way_out = "pass `allow_unpaired=True` to leave these out"
        raise InputError(
            f"{table} lists {count_and_names('file', sorted(missing))} that cannot be found; paths "
            f"are relative to {relative_to or folder}, {way_out}"
        )
    paths = [place[images[row]] for row in kept]
    _refuse_twice(table, paths)
    ids = [
        own if own is not None else default
        for own, default in zip(
            (cells.texts("id")[row] for row in kept) if "id" in columns else [None] * len(kept),
            unique_ids(paths),
            strict=True,
        )
    ]
    sources, scenes = cells.texts("source"), cells.texts("scene")
    samples = Samples.from_columns(
        paths,
        id=ids,
        mask=[place[mask] if mask is not None else None for mask in (masks[row] for row in kept)],
        split=[splits[row] for row in kept],
        generator=[generators[row] for row in kept],
        source=[sources[row] or name for row in kept],
        label=[labels[row] for row in kept],
        scene=[scenes[row] or own for row, own in zip(kept, ids, strict=True)],
    )
    left_out = {place[images[row]] for row in set(range(count)) - set(kept)}
    return root, samples, tuple(sorted(left_out))


def is_negative(mask: str | None) -> bool:
    """Return whether the cell of a mask says that there is none."""
    return mask is None or mask.strip().lower() in ("", NEGATIVE.lower())


class _Cells:
    """Cells of a table, checked and converted a column at a time."""

    def __init__(self, columns: Columns, count: int, place_of: Callable[[int], str]) -> None:
        self._columns = columns
        self._count = count
        self._place_of = place_of

    def texts(self, column: str) -> list[Any]:
        """Texts and paths of a column; None where empty or of spaces alone."""
        found: list[str | None] = []
        for row, cell in enumerate(self._columns.get(column, ())):
            value = os.fspath(cell) if isinstance(cell, os.PathLike) else cell
            if not isinstance(value, str | None):
                raise InputError(
                    f"{self._place_of(row)} has {column} {value!r} ({type(value).__name__}); text "
                    "expected"
                )
            found.append(value if value and not value.isspace() else None)
        return found or [None] * self._count

    def labels(self, masks: Sequence[str | None], generators: Sequence[str | None]) -> list[int]:
        given = self._columns.get("label") or [None] * self._count
        has_masks = "mask" in self._columns
        return [
            self._label(row, label, mask is not None, has_masks or generator == REAL_GENERATOR)
            for row, (label, mask, generator) in enumerate(
                zip(given, masks or [None] * self._count, generators, strict=True)
            )
        ]

    def _label(self, row: int, given: Any, has_mask: bool, is_real_without: bool) -> int:
        if given is None or given == "":
            return FAKE if has_mask else REAL if is_real_without else UNKNOWN
        known = {"1": FAKE, "0": REAL, "-1": UNKNOWN}
        is_number = not isinstance(given, str) and given in (0, 1, -1)
        label = known.get(str(int(given)) if is_number else str(given).strip())
        if label is None:
            raise InputError(
                f"{self._place_of(row)} has label {given!r}; 1 fake, 0 real or -1 unknown expected"
            )
        if label == FAKE and not has_mask:
            raise InputError(
                f"{self._place_of(row)} has label 1 and no mask; a fake needs its mask"
            )
        if label != FAKE and has_mask:
            kind = "a real image" if label == REAL else "an unknown image"
            raise InputError(
                f"{self._place_of(row)} has label {label} and a mask; {kind} has {NEGATIVE} for "
                "mask"
            )
        return label

    def splits(self, table: str) -> list[str]:
        found = []
        for row, split in enumerate(self.texts("split")):
            known = UNSPLIT if split in (None, UNSPLIT) else split_named(split)
            if known is None:
                raise UnknownNameError(f"split in {self._place_of(row)}", split, SPLIT_NAMES)
            found.append(known)
        unsplit = found.count(UNSPLIT)
        if 0 < unsplit < len(found):
            raise InputError(
                f"{table}: {unsplit} of {len(found)} images have no split; name one for each, or "
                "none"
            )
        return found


def _generator(
    label: int, given: str | None, name: str, place_of: Callable[[int], str], row: int
) -> str:
    if label == REAL:
        return REAL_GENERATOR
    if given == REAL_GENERATOR:
        what = "a mask" if label == FAKE else "label -1"
        raise InputError(f"{place_of(row)} has {what} and generator real; name what made the fake")
    return given or (name if label == FAKE else UNKNOWN_GENERATOR)


def _relative_paths(folder: Path, paths: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """Return the nearest folder that holds all paths, and each path relative to that folder."""
    start = os.path.normpath(folder)
    # A link in a path keeps its name, so that the root is the folder that the table means.
    absolute = {
        path: os.path.normpath(os.path.join(start, path))  # noqa: PTH118
        for path in dict.fromkeys(paths)
    }
    inside = start.rstrip(os.sep) + os.sep
    if not all(path.startswith(inside) for path in absolute.values()):
        start = os.path.commonpath({os.path.dirname(path) for path in absolute.values()})  # noqa: PTH120
        inside = start.rstrip(os.sep) + os.sep
    below = {path: place[len(inside) :].replace(os.sep, "/") for path, place in absolute.items()}
    return Path(start), below


def _refuse_twice(table: str, images: Sequence[str]) -> None:
    seen: set[str] = set()
    for image in images:
        if image in seen:
            raise InputError(f"{table} lists {image} twice; each image is one sample")
        seen.add(image)
