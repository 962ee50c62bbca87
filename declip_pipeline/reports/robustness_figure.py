"""Figure of a metric by the strength of a change to the images, a panel for each kind of change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.reports.figure_file import (
    INK,
    SCREEN,
    FigureStyle,
    new_figure,
    save_figure,
)
from declip_pipeline.reports.percent_axes import COLOURS, MARKERS, style_percent_axes

# Inches.
PANEL, GAP, LEFT, HEIGHT = 2.7, 0.3, 0.7, 4.2

Point = tuple[float, float, float]
"""A mean in percent and both ends of its interval; NaN for a missing one."""


@dataclass(frozen=True)
class RobustnessPanel:
    """One kind of change: `title`, and from left to right the `strengths` as they are shown.

    `lines` maps names to a point for each strength; all panels have the same names.
    """

    title: str
    strengths: Sequence[str]
    lines: Mapping[str, Sequence[Point]]


def draw_robustness(
    panels: Sequence[RobustnessPanel],
    path: Path,
    title: str,
    style: FigureStyle = SCREEN,
    unit: str = "IoU (percent)",
) -> Path:
    """Draw a metric by strength: panels side by side, on a fixed axis from 0 to 100.

    A band around each line is its interval. Strengths stand at equal distances. `unit` is written
    at the axis.
    Returns: the path of the file.
    Raises: InputError without a panel, and when lines and strengths do not fit.
    """
    if not panels:
        raise InputError("no panel to draw; expected at least one kind of change")
    names = list(panels[0].lines)
    for panel in panels:
        _check(panel, names)
    width = LEFT + len(panels) * (PANEL + GAP)
    figure = new_figure(width, HEIGHT)
    for place, panel in enumerate(panels):
        left = (LEFT + place * (PANEL + GAP)) / width
        axes = figure.add_axes((left, 0.16, PANEL / width, 0.62))
        positions = np.arange(len(panel.strengths))
        for index, (name, points) in enumerate(panel.lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            marker = MARKERS[index % len(MARKERS)]
            values, low, high = np.asarray(points, dtype=np.float64).T
            axes.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                positions,
                values,
                color=colour,
                marker=marker,
                label=name,
                linewidth=1.8,
                clip_on=False,
            )
        axes.set_xlim(-0.25, len(positions) - 0.75)
        style_percent_axes(axes, panel.strengths, panel.title)
        if place:
            axes.set_yticklabels([])
        if place == 0:
            axes.set_ylabel(unit, fontsize=11, color=INK)
            handles, labels = axes.get_legend_handles_labels()
    start = LEFT / width
    if style.has_title:
        figure.text(start, 0.93, title, fontsize=13, fontweight="bold", color=INK, ha="left")
    # Above the panels, so that it hides no point whatever the values are.
    figure.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(start - 0.01, 0.81),
        ncols=min(len(names), max(2, 2 * len(panels))),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
    )
    return save_figure(figure, path, style)


def _check(panel: RobustnessPanel, names: Sequence[str]) -> None:
    if not panel.strengths or not names or list(panel.lines) != list(names):
        raise InputError(
            f"panel {panel.title!r} has {len(panel.strengths)} strengths and the lines "
            f"{', '.join(panel.lines) or 'none'}; expected at least one strength and the lines "
            f"{', '.join(names) or 'of at least one name'}"
        )
    for name, points in panel.lines.items():
        if len(points) != len(panel.strengths):
            raise InputError(
                f"line {name!r} of panel {panel.title!r} has {len(points)} points; expected one "
                f"for each of the {len(panel.strengths)} strengths"
            )
