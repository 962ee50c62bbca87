"""What an evaluation leaves in its run's folder, and reads again where it is still true."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from declip_pipeline.evaluation.localization import ImageResult
from declip_pipeline.files import (
    folder_name,
    sha256_of_bytes,
    sha256_of_json,
    write_json,
    write_text,
)
from declip_pipeline.store.reader import Store

FILES = "per_image.csv", "summary.json"


def evaluation_folder(store: Store, split: str, generators: Sequence[str] | None) -> str:
    """Its name: DATASET-SPLIT-IDENTITY, or with GENERATORS for a part of the store's."""
    dataset, names = folder_name(store.dataset), sorted(set(generators or ()))
    if generators is None or names == store.generators:
        return f"{dataset}-{split}-{store.identity.sha256[:16]}"
    identity = sha256_of_json([store.identity.sha256, names])
    return f"{dataset}-{split}-{folder_name('+'.join(names))}-{identity[:16]}"


def write_evaluation(
    folder: Path, results: Sequence[ImageResult], made_from: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Write `per_image.csv` and `summary.json`.

    `made_from` is all that the results follow from, as plain JSON; `read_results` asks for it.
    """
    write_table(folder, FILES, _as_csv(results), made_from, summary)


def read_results(folder: Path, made_from: dict[str, Any]) -> list[ImageResult] | None:
    """The results that were written there, or None unless they follow from the same."""
    rows = read_table(folder, FILES, made_from)
    try:
        return None if rows is None else [_result(row) for row in rows]
    except (ValueError, KeyError, TypeError):
        return None


def write_table(
    folder: Path,
    files: tuple[str, str],
    table: str,
    made_from: dict[str, Any],
    summary: dict[str, Any],
) -> None:
    """Write a table and the JSON beside it, by the names of `files`."""
    table_file, summary_file = files
    write_text(folder / table_file, table)
    digest = sha256_of_bytes(table.encode())
    write_json(folder / summary_file, {**made_from, _digest_key(table_file): digest, **summary})


def read_table(
    folder: Path, files: tuple[str, str], made_from: dict[str, Any]
) -> list[dict[str, str]] | None:
    """The rows of a table, or None unless they follow from the same.

    A table that another program changed, or that is not of the summary beside it, is not read.
    """
    table_file, summary_file = files
    try:
        summary = json.loads((folder / summary_file).read_bytes())
        table = (folder / table_file).read_bytes()
        same = all(summary.get(name) == value for name, value in made_from.items())
        if not same or summary.get(_digest_key(table_file)) != sha256_of_bytes(table):
            return None
        return list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    except (OSError, ValueError, AttributeError):
        return None


def _digest_key(table_file: str) -> str:
    return f"{Path(table_file).stem}_sha256"


def _as_csv(results: Sequence[ImageResult]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageResult)])
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    return text.getvalue()


def _result(row: dict[str, str]) -> ImageResult:
    words = {"id", "split", "generator", "has_fake", "scene"}
    numbers = {f.name: float(row[f.name]) for f in fields(ImageResult) if f.name not in words}
    return ImageResult(
        id=row["id"],
        split=row["split"],
        generator=row["generator"],
        scene=row["scene"],
        has_fake={"True": True, "False": False}[row["has_fake"]],
        **numbers,
    )
