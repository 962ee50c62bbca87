"""Figures beside the published ones, with the difference: as text, as Markdown, as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.reports.matrix import MISSING

Published = Mapping[str, Mapping[str, float]]
"""Figures by row and column, as they were published."""


def beside_text(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    published: Published,
    decimals: int,
) -> str:
    """The table for a terminal; a cell is "50.2 (51.1, -0.9)": ours, published, difference.

    values: (R, C) floating point, NaN for a missing cell. Figures published for rows or columns
    that `values` lacks have no cell. Raises: InputError when names and shape do not fit.
    """
    lines = _cells(corner, rows, columns, values, published, decimals)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def beside_markdown(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    published: Published,
    decimals: int,
) -> str:
    """The same as a Markdown table. Raises: InputError when names and shape do not fit."""
    head, *body = (
        [cell.replace("|", "\\|") for cell in line]
        for line in _cells(corner, rows, columns, values, published, decimals)
    )
    rule = ["---", *["---:"] * len(columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def beside_csv(
    tables: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray, Published]],
) -> str:
    """Rows of row, column, ours, published and difference; empty where there is no figure."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["row", "column", "ours", "published", "difference"])
    for rows, columns, values, published in tables:
        for row, line in zip(rows, values.tolist(), strict=True):
            for column, ours in zip(columns, line, strict=True):
                theirs = _published(published, row, column)
                difference = ours - theirs
                writer.writerow([row, column, *(_or_empty(x) for x in (ours, theirs, difference))])
    return content.getvalue()


def _cells(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    published: Published,
    decimals: int,
) -> list[list[str]]:
    if values.shape != (len(rows), len(columns)):
        raise InputError(
            f"a table of shape {values.shape} for {len(rows)} rows and {len(columns)} columns; "
            "expected a value for each of both"
        )
    body = [
        [
            row,
            *(
                _cell(float(value), _published(published, row, column), decimals)
                for column, value in zip(columns, line, strict=True)
            ),
        ]
        for row, line in zip(rows, values, strict=True)
    ]
    return [[corner, *columns], *body]


def _cell(ours: float, theirs: float, decimals: int) -> str:
    own = MISSING if np.isnan(ours) else f"{ours:.{decimals}f}"
    if np.isnan(theirs):
        return own
    difference = "" if np.isnan(ours) else f", {ours - theirs:+.{decimals}f}"
    # As it was printed: with one decimal, or as many as it has.
    return f"{own} ({max(f'{theirs:.1f}', f'{theirs:g}', key=len)}{difference})"


def _published(published: Published, row: str, column: str) -> float:
    return float(published.get(row, {}).get(column, np.nan))


def _or_empty(value: float) -> float | str:
    return "" if np.isnan(value) else value
