"""Axes of figures in percent, all with one scale and one look."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from declip_pipeline.reports.figure_file import INK, QUIET_INK

# Okabe and Ito's colours, for colour-blind readers; the markers differ in grey, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")

# Letters of the names of places that fit side by side.
LETTERS_AN_INCH = 12


def style_percent_axes(axes: Axes, places: Sequence[str], x_label: str) -> None:
    """Fix the scale to 0 to 100, and name the places along the bottom."""
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(places)), places)
    figure: Any = axes.figure
    width = axes.get_position().width * figure.get_figwidth()
    if max(map(len, places)) * len(places) > LETTERS_AN_INCH * width:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.tick_params(length=0, labelsize=10, labelcolor=INK)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET_INK)


def title_above(axes: Axes, title: str, unit: str, columns: int) -> None:
    """Title and legend above the plot, so that they hide no point whatever the values are.

    `unit` is written along the side, `columns` is how many names stand side by side, 0 for no
    legend.
    """
    axes.set_ylabel(unit, fontsize=11, color=INK)
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=32)
    if not columns:
        return
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )
