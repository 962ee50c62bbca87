"""Means in domain and out of domain, with their intervals, over layers or decoders."""

from pathlib import Path

import numpy as np

from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle, new_figure, save_figure
from declip_pipeline.reports.layer_curve_figure import COLOURS, MARKERS
from declip_pipeline.reports.percent_axes import style_percent_axes, title_above

# Of the way to the next row: what stands side by side hides nothing.
APART = 0.12


def draw_domains(
    table: Table,
    path: Path,
    title: str,
    unit: str,
    *,
    connected: bool,
    style: FigureStyle = SCREEN,
) -> Path:
    """Draw the columns of a table over its rows, on a fixed axis from 0 to 100.

    A figure in percent is a mark, its interval a bar through it. `unit` is written at the axis.
    Rows with a run that learned nothing have an exclamation mark. `connected`: rows have an order,
    as layers do, and marks are joined by lines. Returns the path of the file.
    """
    count = len(table.rows)
    figure = new_figure(min(11.0, max(5.5, 0.55 * count + 2)), 4.2)
    axes = figure.add_axes((0.1, 0.16, 0.87, 0.68))
    for number, column in enumerate(table.columns):
        cells = [table.cell(row, column) for row in table.rows]
        values = np.array([cell.value for cell in cells])
        ends = np.array([cell.interval for cell in cells], dtype=np.float64).reshape(count, 2)
        places = np.arange(count) + APART * (number - (len(table.columns) - 1) / 2)
        axes.errorbar(
            places,
            values,
            yerr=np.abs(np.nan_to_num(ends - values[:, None])).T,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if connected else "none",
            linewidth=1.4,
            elinewidth=1.2,
            capsize=3,
            label=column,
        )
    axes.set_xlim(-0.5, count - 0.5)
    style_percent_axes(axes, table.marked_rows, table.corner)
    title_above(axes, title if style.has_title else "", unit, len(table.columns))
    return save_figure(figure, path, style)
