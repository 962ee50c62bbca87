"""Train x test matrix as a heat map."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle

from declip_pipeline.reports.figure_file import (
    INK,
    QUIET_INK,
    SCREEN,
    FigureStyle,
    new_figure,
    save_figure,
)
from declip_pipeline.reports.matrix import (
    Column,
    checked_matrix,
    column_name,
    has_means,
    in_domain,
    matrix_summary,
)

CELL = 0.95  # inches
HEAT = "YlGnBu"
MISSING_FILL = "#eeeeee"


def draw_matrix(
    values: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[Column],
    path: Path,
    title: str,
    domain: np.ndarray | None = None,
    style: FigureStyle = SCREEN,
) -> Path:
    """Draw a train x test matrix as a heat map on a fixed scale from 0 to 100.

    values: (R, C) percent, NaN where a cell is missing (drawn hatched). row_names: what each row
    was tested on. column_names: what each column was trained on. domain: as `matrix_means` takes
    it. ID cells are framed, and the ID and OOD means stand below the title.
    Returns: the path of the file. Raises: InputError when names and shape do not fit.
    """
    matrix = checked_matrix(values, row_names, column_names)
    n_rows, n_columns = matrix.shape
    figure = new_figure(CELL * n_columns + 2.6, CELL * n_rows + 1.8)
    # Placed by hand in inches: a cell keeps its size whatever the number of cells.
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        (1.4 / width, 0.7 / height, CELL * n_columns / width, CELL * n_rows / height)
    )

    heat = colormaps[HEAT].with_extremes(bad=MISSING_FILL)
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap=heat, vmin=0, vmax=100, aspect="auto")
    same = in_domain(row_names, column_names, domain)
    for row, column in np.ndindex(matrix.shape):
        value, corner = matrix[row, column], (column - 0.5, row - 0.5)
        if np.isnan(value):
            hatched: dict[str, Any] = {
                "fill": False,
                "hatch": "///",
                "edgecolor": "#bbbbbb",
                "linewidth": 0,
            }
            axes.add_patch(Rectangle(corner, 1, 1, **hatched))
        else:
            colour = "white" if value > 60 else INK
            text = f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
        if same[row, column]:
            inset = (corner[0] + 0.03, corner[1] + 0.03)
            axes.add_patch(Rectangle(inset, 0.94, 0.94, fill=False, edgecolor=INK, linewidth=1.6))

    shown_names = [column_name(column) for column in column_names]
    slanted = max(map(len, shown_names)) > 11
    axes.set_xticks(range(n_columns), shown_names)
    axes.tick_params(axis="x", labelrotation=30 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n_rows), row_names)
    axes.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0, labelsize=10.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("trained on", fontsize=11, color=QUIET_INK, labelpad=8)
    axes.set_ylabel("tested on", fontsize=11, color=QUIET_INK, labelpad=8)

    top = 1 + 0.42 / (CELL * n_rows)
    below = 1 + 0.14 / (CELL * n_rows)
    words: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "bottom"}
    if style.has_title:
        axes.text(0, top, title, fontsize=13, fontweight="bold", color=INK, **words)
        if has_means(domain):
            summary = matrix_summary(matrix, row_names, column_names, domain=domain)
            axes.text(0, below, summary, fontsize=10.5, color=QUIET_INK, **words)

    bar_left = (1.4 + CELL * n_columns + 0.25) / width
    bar = figure.add_axes((bar_left, 0.7 / height, 0.14 / width, CELL * n_rows / height))
    figure.colorbar(image, cax=bar, ticks=range(0, 101, 25))
    bar.tick_params(length=0, labelsize=9, labelcolor=QUIET_INK)
    bar.spines[:].set_visible(False)
    bar.set_ylabel("percent", fontsize=9, color=QUIET_INK)
    return save_figure(figure, path, style)
