"""Curves in percent as inline SVG: the geometry that the page's template draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

PLOT_HEIGHT, TOP, LEFT, RIGHT = 220.0, 12.0, 44.0, 16.0
BOTTOM, SLANTED_BOTTOM = 44.0, 84.0
STEP, NARROWEST, WIDEST = 56.0, 200.0, 900.0
# Letters of a name that fit into a step, in the page's smallest type.
LETTERS_A_STEP = 8
# Of the way to the next place: intervals that stand side by side hide nothing.
APART = 0.1
STYLES = 6
"""Number of colours and markers that the page's style has."""

Point = tuple[float, float, float]
"""A value in percent and both ends of its interval; NaN for a missing one."""


@dataclass(frozen=True)
class Mark:
    """A value at its place, in the units of the drawing; without an interval both ends are None."""

    x: float
    y: float
    low: float | None
    high: float | None
    hover: str


@dataclass(frozen=True)
class Line:
    """A named line: the number of its colour and marker, its path, and its marks."""

    name: str
    style: int
    path: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Chart:
    """Lines over places that have names, on an axis from 0 to 100.

    Attributes:
        title: What is drawn.
        x_label: What the places are.
        width: Width of the drawing.
        height: Its height.
        floor: Where 0 percent is.
        places: Position and name of each place.
        is_slanted: Whether the names do not fit side by side.
        ticks: Position and text of each percentage.
        lines: The lines.
    """

    title: str
    x_label: str
    width: float
    height: float
    floor: float
    places: Sequence[tuple[float, str]]
    is_slanted: bool
    ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]

    @property
    def left(self) -> float:
        """Left end of the plot."""
        return LEFT

    @property
    def right(self) -> float:
        """Right end of the plot."""
        return self.width - RIGHT

    @property
    def description(self) -> str:
        """What it shows, for who does not see it; the figures are in a table."""
        names = ", ".join(line.name for line in self.lines)
        return f"{self.title}: {names}, by {self.x_label}, from 0 to 100 percent"


def percent_chart(
    title: str,
    x_label: str,
    places: Sequence[str],
    lines: Mapping[str, Sequence[Point]],
    *,
    narrowest: float = NARROWEST,
) -> Chart:
    """Return the chart of lines, a point at each of the places; a missing one leaves a gap.

    `narrowest` is the width of the plot where there are few places.
    """
    count = len(places)
    span = min(WIDEST, max(narrowest, STEP * count))
    width = LEFT + span + RIGHT
    step = span / count
    is_slanted = max(map(len, places)) > LETTERS_A_STEP * step / STEP
    floor = TOP + PLOT_HEIGHT

    def height_of(value: float) -> float:
        return round(floor - PLOT_HEIGHT * value / 100, 1)

    found = []
    for number, (name, points) in enumerate(lines.items()):
        shift = APART * (number - (len(lines) - 1) / 2)
        marks: list[Mark | None] = []
        for place, (value, low, high) in enumerate(points):
            if np.isnan(value):
                marks.append(None)
                continue
            x = round(LEFT + step * (place + 0.5) + STEP * shift, 1)
            hover = f"{name}, {places[place]}: {value:.1f}"
            ends: tuple[float | None, float | None] = None, None
            if not np.isnan(low):
                hover += f" [{low:.1f}, {high:.1f}]"
                ends = height_of(low), height_of(high)
            marks.append(Mark(x, height_of(value), *ends, hover))
        drawn = [one for one in marks if one is not None]
        path = " ".join(
            f"M{one.x} {one.y}L{other.x} {other.y}"
            for one, other in pairwise(marks)
            if one is not None and other is not None
        )
        found.append(Line(name, number % STYLES, path, drawn))
    return Chart(
        title,
        x_label,
        round(width, 1),
        floor + (SLANTED_BOTTOM if is_slanted else BOTTOM),
        floor,
        [(round(LEFT + step * (place + 0.5), 1), name) for place, name in enumerate(places)],
        is_slanted,
        [(height_of(value), str(value)) for value in range(0, 101, 20)],
        found,
    )
