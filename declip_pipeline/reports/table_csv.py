"""Figures of a table as CSV, a row for each cell: the data beside a drawing."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from declip_pipeline.evaluation.matrices import domain_name
from declip_pipeline.evaluation.table import Table
from declip_pipeline.files import remove_abandoned, write_text


def write_table_csv(path: Path, table: Table, domain: np.ndarray | None = None) -> Path:
    """Write a table of estimates, whole or not at all.

    Columns are `row`, `column`, `value` and the ends of its interval, `low` and `high` (empty
    where there is none), `cells` and `mark`, see `Estimate`; with `domain`, (R, C), also
    `domain`: ID for 1 or True, OOD for 0, empty for NaN.

    Returns:
        `path` with the suffix .csv.
    """
    rows = []
    for place, row in enumerate(table.rows):
        for number, column in enumerate(table.columns):
            one = table.cell(row, column)
            about = {"row": row, "column": column}
            if domain is not None:
                about["domain"] = domain_name(domain[place, number])
            numbers = dict(zip(("value", "low", "high"), (one.value, *one.interval), strict=True))
            shown = {name: "" if np.isnan(value) else value for name, value in numbers.items()}
            rows.append({**about, **shown, "cells": one.cells, "mark": one.mark})
    return write_rows_csv(path, rows)


def write_rows_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows of the same columns, at least one, whole or not at all.

    Returns:
        `path` with the suffix .csv.
    """
    path = path.with_suffix(".csv")
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    remove_abandoned(path.parent)
    write_text(path, content.getvalue())
    return path
