"""Means in domain, out of domain and of the worst cell, one row a method."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from declip_pipeline.evaluation.cells import DOMAINS
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.reports.figure_file import (
    INK,
    QUIET_INK,
    SCREEN,
    FigureStyle,
    new_figure,
    save_figure,
)
from declip_pipeline.reports.percent_axes import COLOURS, MARKERS

ROW_INCHES = 0.3


def draw_methods(
    methods: Sequence[Method], path: Path, title: str, style: FigureStyle = SCREEN
) -> Path:
    """Draw methods from top to bottom, on a fixed axis from 0 to 100.

    An IoU in percent is a mark, its interval a bar through it. Methods with a run that learned
    nothing have an exclamation mark. Returns the path of the file.
    """
    height = ROW_INCHES * len(methods) + 1.2
    figure = new_figure(9.0, height)
    axes = figure.add_axes((0.4, 0.6 / height, 0.58, 1 - 1.2 / height))
    places = np.arange(len(methods))
    for number, name in enumerate((*DOMAINS, "worst cell")):
        shown = [one.domains.get(name, one.worst[0]) for one in methods]
        values = np.array([one.value for one in shown])
        ends = np.array([one.interval for one in shown], np.float64).reshape(-1, 2)
        axes.errorbar(
            values,
            places,
            xerr=np.abs(np.nan_to_num(ends - values[:, None])).T,
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=5,
            linestyle="none",
            elinewidth=1.2,
            capsize=2,
            label=name,
        )
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(places, [one.name + one.mark for one in methods])
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU (percent)", fontsize=11, color=INK)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.grid(axis="both", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET_INK)
    figure.suptitle(
        title if style.has_title else "",
        x=0.01,
        y=1.0,
        ha="left",
        va="top",
        fontweight="bold",
        color=INK,
    )
    figure.legend(loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=3, frameon=False, fontsize=9)
    return save_figure(figure, path, style)
