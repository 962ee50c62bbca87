"""Means in domain and out of domain, with their intervals, over layers or decoders."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle, new_figure, save_figure
from declip_pipeline.reports.percent_axes import (
    COLOURS,
    MARKERS,
    style_percent_axes,
    title_above,
)

# Of the way to the next row: what stands side by side hides nothing.
APART = 0.12

# Inches.
LEFT, GAP, RIGHT, A_ROW, HEIGHT = 0.7, 0.5, 0.2, 0.55, 4.2
NARROWEST, WIDEST = 4.6, 10.1
NARROWEST_BESIDE = 2.4


def draw_domains(
    table: Table,
    path: Path,
    title: str,
    unit: str,
    *,
    connected: bool,
    beside: Table | None = None,
    style: FigureStyle = SCREEN,
) -> Path:
    """Draw the columns of a table over its rows, on a fixed axis from 0 to 100.

    A figure in percent is a mark, its interval a bar through it. Rows with a run that learned
    nothing have an exclamation mark.

    Args:
        table: The table, in percent.
        path: Path of the figure; its suffix becomes that of the format.
        title: Title.
        unit: Label of the axis.
        connected: Whether rows have an order, as layers do: marks are joined by lines.
        beside: A table of the same unit for a second panel on the same axis, with its own title;
            its rows have an order. Columns have the colours of the same ones in `table`, and its
            legend has the others.
        style: Format and size of the figure.

    Returns:
        The path of the figure.
    """
    width = min(WIDEST, max(NARROWEST, A_ROW * len(table.rows)))
    width_beside = 0.0 if beside is None else max(NARROWEST_BESIDE, A_ROW * len(beside.rows))
    total = LEFT + width + (GAP + width_beside if beside else 0) + RIGHT
    figure = new_figure(total, HEIGHT)
    columns = list(dict.fromkeys([*table.columns, *(beside.columns if beside else ())]))
    axes = figure.add_axes((LEFT / total, 0.16, width / total, 0.68))
    _draw(axes, table, columns, connected=connected)
    title_above(axes, title if style.has_title else "", unit, len(table.columns))
    if beside is not None:
        start = (LEFT + width + GAP) / total
        other = figure.add_axes((start, 0.16, width_beside / total, 0.68))
        _draw(other, beside, columns, connected=True, known=table.columns)
        other.set_yticklabels([])
        title_above(other, beside.title, "", len(columns) - len(table.columns))
    return save_figure(figure, path, style)


def _draw(
    axes: Axes,
    table: Table,
    columns: list[str],
    *,
    connected: bool,
    known: Collection[str] = (),
) -> None:
    count = len(table.rows)
    for number, column in enumerate(table.columns):
        cells = [table.cell(row, column) for row in table.rows]
        values = np.array([cell.value for cell in cells])
        ends = np.array([cell.interval for cell in cells], dtype=np.float64).reshape(count, 2)
        places = np.arange(count) + APART * (number - (len(table.columns) - 1) / 2)
        style = columns.index(column)
        axes.errorbar(
            places,
            values,
            yerr=np.abs(np.nan_to_num(ends - values[:, None])).T,
            color=COLOURS[style % len(COLOURS)],
            marker=MARKERS[style % len(MARKERS)],
            linestyle="-" if connected else "none",
            linewidth=1.4,
            elinewidth=1.2,
            capsize=3,
            label=None if column in known else column,
        )
    axes.set_xlim(-0.5, count - 0.5)
    style_percent_axes(axes, table.marked_rows, table.corner)
