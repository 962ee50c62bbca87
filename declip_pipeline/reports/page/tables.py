"""Tables of a page: cells that sort by their values, and copy as CSV and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.matrix import MISSING


@dataclass(frozen=True)
class Column:
    """Column of a table: its name, and whether it holds numbers.

    `has_interval`: its cells have the ends of an interval, two more columns of a CSV.
    """

    name: str
    is_number: bool = False
    has_interval: bool = False


@dataclass(frozen=True)
class PageCell:
    """Cell of a table: what is shown, what it is sorted and copied by, and its interval."""

    text: str
    value: str = ""
    low: str = ""
    high: str = ""
    hover: str = ""


@dataclass(frozen=True)
class PageTable:
    """Table of a page.

    Attributes:
        name: Name of the table, unique on its page.
        caption: What it shows.
        columns: Its columns.
        rows: A cell for each column.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[PageCell]]


def text_cell(text: object, hover: str = "") -> PageCell:
    """Return a cell of text, sorted by it."""
    return PageCell(str(text), str(text), hover=hover)


def number_cell(
    value: float | None,
    decimals: int,
    low: float | None = None,
    high: float | None = None,
    *,
    factor: float = 1.0,
) -> PageCell:
    """Return a cell of a number, with the ends of its interval; a missing one is a dash.

    Value and ends are multiplied by `factor`, that of percent for example.
    """
    if value is None or np.isnan(value):
        return PageCell(MISSING)
    value = factor * value
    low, high = (None if end is None else factor * end for end in (low, high))
    if low is None or high is None or np.isnan(low):
        return PageCell(f"{value:.{decimals}f}", repr(float(value)))
    ends = [f"{end:.{decimals}f}" for end in (low, high)]
    return PageCell(f"{value:.{decimals}f}", repr(float(value)), *ends)


def estimate_cell(one: Estimate, decimals: int = 1, *, factor: float = 1.0) -> PageCell:
    """Return the cell of an estimate, with its mark and the number of cells, if any, on hover."""
    cell = number_cell(one.value, decimals, *one.interval, factor=factor)
    hover = f"mean over {one.cells} cell{'' if one.cells == 1 else 's'}" if one.cells else ""
    if len(one.by_seed) > 1:
        hover += (
            f", standard deviation over {len(one.by_seed)} seeds {factor * one.spread:.{decimals}f}"
        )
    return PageCell(cell.text + one.mark, cell.value, cell.low, cell.high, hover)


def table_of_estimates(table: Table, name: str, caption: str) -> PageTable:
    """Return a table of estimates in percent as it stands, rows by columns."""
    columns = [Column(name, is_number=True, has_interval=True) for name in table.columns]
    rows = [
        [text_cell(row), *(estimate_cell(table.cell(row, column)) for column in table.columns)]
        for row in table.rows
    ]
    return PageTable(name, caption, [Column(table.corner), *columns], rows)
