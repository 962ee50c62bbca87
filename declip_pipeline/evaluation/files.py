"""Files of an evaluation: a CSV table of images and a JSON summary beside it."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.evaluation.groups import is_no_run
from declip_pipeline.evaluation.metrics import PIXEL_COUNTS
from declip_pipeline.evaluation.scores import FALSE_ALARM_COLUMNS, LOCALIZATION_COLUMNS, Task
from declip_pipeline.files import (
    folder_name,
    remove_abandoned,
    sha256_of_bytes,
    sha256_of_json,
    write_json,
    write_text,
)

EVALUATIONS = "evaluations"
"""Folder that keeps what was evaluated: in a run's folder, else in the working folder."""

Kind = Task | Literal["false_alarms"]
"""Kind of a table of images: those that a task evaluates, or the real ones of localization."""

FILES: dict[Kind, tuple[str, str]] = {
    "localization": ("per_image.csv", "summary.json"),
    "detection": ("detection.csv", "detection.json"),
    "false_alarms": ("false_alarms.csv", "false_alarms.json"),
}
"""Names of the table and the summary."""

_LEADING: dict[Kind, tuple[str, ...]] = {
    "localization": ("id", "split", "generator", *LOCALIZATION_COLUMNS, "scene"),
    "detection": ("id", "split", "generator", "scene", "label"),
    "false_alarms": ("id", "split", "scene", *FALSE_ALARM_COLUMNS),
}
_LINE_END: dict[Kind, str] = {
    "localization": "\r\n",
    "detection": "\n",
    "false_alarms": "\n",
}


def evaluation_folder(
    images: LabelledImages,
    split: str,
    generators: Sequence[str] | None,
    task: Task = "localization",
) -> str:
    """Return the name of an evaluation's folder.

    It is DATASET-SPLIT-IDENTITY, DATASET-SPLIT-GENERATORS-IDENTITY for a part of the store's
    generators, and detection-... for detection.
    """
    dataset, names = folder_name(images.dataset), sorted(set(generators or ()))
    prefix = "detection-" if task == "detection" else ""
    if generators is None or names == images.generators:
        return f"{prefix}{dataset}-{split}-{images.sha256[:16]}"
    identity = sha256_of_json([images.sha256, names])
    return f"{prefix}{dataset}-{split}-{folder_name('+'.join(names))}-{identity[:16]}"


def kept_in(path: Path, config: Mapping[str, Any]) -> Path:
    """Return the folder that keeps evaluations by default.

    Args:
        path: Folder of a run; of what is no run, its name.
        config: What is configured, as `MapSource.config` returns it.
    """
    return Path(EVALUATIONS) / path if is_no_run(config) else path / EVALUATIONS


def write_files(
    folder: Path,
    kind: Kind,
    images: pa.Table,
    scores: Sequence[str],
    made_from: dict[str, Any],
    summary: dict[str, Any],
) -> None:
    """Write the table of images and the summary, each whole or not at all.

    Args:
        folder: Folder of the two files.
        kind: Decides their names and columns.
        images: Table with a row for each image.
        scores: Names of the image scores; for detection only.
        made_from: All that the values follow from, as plain JSON; `read_values` compares it.
        summary: Further entries of the summary.
    """
    table_file, summary_file = FILES[kind]
    names = [*_LEADING[kind], *scores]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=_LINE_END[kind])
    writer.writerow(names)
    writer.writerows(zip(*(images.column(name).to_pylist() for name in names), strict=True))
    remove_abandoned(folder)
    write_text(folder / table_file, text.getvalue())
    digest = sha256_of_bytes(text.getvalue().encode())
    write_json(folder / summary_file, {**made_from, _digest_key(table_file): digest, **summary})


def read_values(
    folder: Path, kind: Kind, made_from: dict[str, Any], ids: Sequence[str], scores: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Read the values of images that were written before.

    Args:
        folder: Folder of the two files.
        kind: As in `write_files`.
        made_from: All that the values should follow from.
        ids: Ids of the images, in order.
        scores: Names of the image scores; for detection only.

    Returns:
        Values by column, or None unless the files follow from the same, list the same images, and
        neither of them was changed.
    """
    table_file, summary_file = FILES[kind]
    if not all((folder / name).is_file() for name in (summary_file, table_file)):
        return None
    try:
        summary = json.loads((folder / summary_file).read_bytes())
        content = (folder / table_file).read_bytes()
        same = all(summary.get(name) == value for name, value in made_from.items())
        if not same or summary.get(_digest_key(table_file)) != sha256_of_bytes(content):
            return None
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        if [row["id"] for row in rows] != list(ids):
            return None
        if kind != "localization":
            names = scores if kind == "detection" else FALSE_ALARM_COLUMNS
            return {name: np.array([float(row[name]) for row in rows]) for name in names}
        read: dict[str, Callable[[str], bool | int | float]] = {
            "has_fake": {"True": True, "False": False}.__getitem__,
            **dict.fromkeys(PIXEL_COUNTS, int),
        }
        # A file of an earlier version lacks some.
        return {
            name: np.array([read.get(name, float)(row[name]) for row in rows])
            for name in LOCALIZATION_COLUMNS
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None


def _digest_key(table_file: str) -> str:
    return f"{Path(table_file).stem}_sha256"
