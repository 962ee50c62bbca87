"""Figures beside the published ones, with the difference: as text, as Markdown, as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.matrix import MISSING, interval_text

Published = Mapping[str, Mapping[str, float]]
"""Figures by row and column, as they were published."""


def beside_text(table: Table, published: Published, decimals: int, *, with_intervals: bool) -> str:
    """The table for a terminal; a cell is "50.2 (51.1, -0.9)": ours, published, difference.

    With intervals, they stand behind ours: "50.2 [48.9, 51.4] (51.1, -0.9)". What was published
    for rows and columns that the table lacks is left out.
    """
    lines = _lines(table, published, decimals, with_intervals)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def beside_markdown(table: Table, published: Published, decimals: int) -> str:
    """The same as a Markdown table, with intervals."""
    head, *body = (
        [cell.replace("|", "\\|") for cell in line]
        for line in _lines(table, published, decimals, with_intervals=True)
    )
    rule = ["---", *["---:"] * len(table.columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def beside_csv(tables: Sequence[tuple[Table, Published]]) -> str:
    """Rows of row, column, ours with its interval, published and difference.

    Empty where there is no figure.
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["row", "column", "ours", "low", "high", "published", "difference"])
    for table, published in tables:
        for row in table.rows:
            for column in table.columns:
                ours, theirs = table.cell(row, column), _published(published, row, column)
                values = (ours.value, *ours.interval, theirs, ours.value - theirs)
                writer.writerow(
                    [row, column, *("" if np.isnan(value) else value for value in values)]
                )
    return content.getvalue()


def _lines(
    table: Table, published: Published, decimals: int, with_intervals: bool
) -> list[list[str]]:
    body = [
        [
            row,
            *(
                _cell(
                    table.cell(row, column),
                    _published(published, row, column),
                    decimals,
                    with_intervals,
                )
                for column in table.columns
            ),
        ]
        for row in table.rows
    ]
    return [[table.corner, *table.columns], *body]


def _cell(ours: Estimate, theirs: float, decimals: int, with_interval: bool) -> str:
    text = MISSING if np.isnan(ours.value) else f"{ours.value:.{decimals}f}"
    if with_interval:
        text += interval_text(*ours.interval, decimals)
    if np.isnan(theirs):
        return text
    difference = "" if np.isnan(ours.value) else f", {ours.value - theirs:+.{decimals}f}"
    # As it was printed: with one decimal, or as many as it has.
    return f"{text} ({max(f'{theirs:.1f}', f'{theirs:g}', key=len)}{difference})"


def _published(published: Published, row: str, column: str) -> float:
    return float(published.get(row, {}).get(column, np.nan))
