"""Published figures beside ours, with the difference: as text, as Markdown, as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.matrix import MISSING, interval_text
from declip_pipeline.study.tables import OURS, StudyTable

Figures = Mapping[str, Mapping[str, float]]
"""Figures by row and column, in the unit of a table."""


@dataclass(frozen=True)
class Published:
    """Figures that were published for a table.

    Attributes:
        source: Where, in one line.
        figures: By row and column of the table.
        means: Of a train x test matrix, its means by domain, "ID" and "OOD".
        others: Those of other methods, by their names: by domain of a train x test matrix, else by
            column of the table.
    """

    source: str
    figures: Figures = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)
    others: Figures = field(default_factory=dict)


def beside_published(
    tables: Sequence[StudyTable], published: Published | None
) -> list[list[tuple[Table, Figures]]]:
    """Return for each table the parts to show, each with the figures that were published for it.

    The parts are the table and, of a matrix, its means. Other methods are rows of the means, or of
    the table that is no matrix. Published figures are for a study with one table.
    """
    known = published if published and len(tables) == 1 else Published("")
    found = []
    for one in tables:
        table, figures = one.table, known.figures
        if one.in_domain is None:
            table = replace(table, rows=(*table.rows, *known.others))
            figures = {**figures, **known.others}
        parts: list[tuple[Table, Figures]] = [(table, figures)]
        if one.means is not None:
            means = replace(one.means, rows=(*one.means.rows, *known.others))
            parts.append((means, {OURS: known.means, **known.others}))
        found.append(parts)
    return found


def beside_text(table: Table, published: Figures, decimals: int, *, with_intervals: bool) -> str:
    """Return a table for a terminal; a cell is "50.2 (51.1, -0.9)": ours, published, difference.

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


def beside_markdown(table: Table, published: Figures, decimals: int) -> str:
    """Return `beside_text` as a Markdown table, with intervals."""
    head, *body = (
        [cell.replace("|", "\\|") for cell in line]
        for line in _lines(table, published, decimals, with_intervals=True)
    )
    rule = ["---", *["---:"] * len(table.columns)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def beside_csv(
    tables: Sequence[tuple[Table, Figures]], *, metric: str, protocol: Sequence[str]
) -> str:
    """Return a CSV of row, column, ours with its interval, published and difference.

    Each line has the metric and what was done, the lines of `protocol`; a field is empty where
    there is no figure.
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(
        [
            *("row", "column", "ours", "low", "high", "published", "difference", "mark"),
            *("metric", "protocol"),
        ]
    )
    for table, published in tables:
        for row in table.rows:
            for column in table.columns:
                ours, theirs = table.cell(row, column), _published(published, row, column)
                values = (ours.value, *ours.interval, theirs, ours.value - theirs)
                writer.writerow(
                    [
                        *(row, column),
                        *("" if np.isnan(value) else value for value in values),
                        *(ours.mark, metric, "; ".join(protocol)),
                    ]
                )
    return content.getvalue()


def _lines(
    table: Table, published: Figures, decimals: int, with_intervals: bool
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
    text = MISSING if np.isnan(ours.value) else f"{ours.value:.{decimals}f}{ours.mark}"
    if with_interval:
        text += interval_text(*ours.interval, decimals)
    if np.isnan(theirs):
        return text
    difference = "" if np.isnan(ours.value) else f", {ours.value - theirs:+.{decimals}f}"
    # With one decimal, or as many as were published.
    return f"{text} ({max(f'{theirs:.1f}', f'{theirs:g}', key=len)}{difference})"


def _published(published: Figures, row: str, column: str) -> float:
    return float(published.get(row, {}).get(column, np.nan))
