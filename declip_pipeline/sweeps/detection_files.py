"""What an evaluation of detection leaves in its run's folder, and reads again where still true."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from declip_pipeline.evaluation.detection import PictureScores
from declip_pipeline.sweeps.evaluation_files import read_table, write_table

FILES = "detection.csv", "detection.json"

_COLUMNS = "id", "split", "generator", "scene", "label"


def write_detection(
    folder: Path,
    results: Sequence[PictureScores],
    made_from: dict[str, Any],
    summary: dict[str, Any],
) -> None:
    """Write `detection.csv`, a column for each score, and `detection.json`.

    `made_from` is all that the scores follow from, as plain JSON; `read_scores` asks for it.
    """
    names = list(results[0].scores) if results else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *names])
    for result in results:
        about = [getattr(result, column) for column in _COLUMNS]
        writer.writerow([*about, *(result.scores[name] for name in names)])
    write_table(folder, FILES, text.getvalue(), made_from, summary)


def read_scores(folder: Path, made_from: dict[str, Any]) -> list[PictureScores] | None:
    """The scores that were written there, or None unless they follow from the same."""
    rows = read_table(folder, FILES, made_from)
    try:
        return None if rows is None else [_scores(row) for row in rows]
    except (ValueError, KeyError, TypeError):
        return None


def _scores(row: dict[str, str]) -> PictureScores:
    return PictureScores(
        id=row["id"],
        split=row["split"],
        generator=row["generator"],
        scene=row["scene"],
        label=int(row["label"]),
        scores={name: float(value) for name, value in row.items() if name not in _COLUMNS},
    )
