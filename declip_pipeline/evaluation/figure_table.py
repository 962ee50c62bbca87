"""Figures by row and column, with their intervals: what tables are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval


@dataclass(frozen=True)
class Figure:
    """A mean and its interval, in the same unit; NaN where there is none."""

    value: float = float("nan")
    interval: Interval = field(default=NO_INTERVAL)


@dataclass(frozen=True)
class FigureTable:
    """A table; `corner` says what its rows and columns are. A missing cell is a NaN."""

    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Figure]

    def cell(self, row: str, column: str) -> Figure:
        """The figure of a row and a column."""
        return self.cells.get((row, column), Figure())

    @property
    def values(self) -> np.ndarray:
        """(R, C) float64, NaN where a cell is missing."""
        rows = [[self.cell(row, column).value for column in self.columns] for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(len(self.rows), len(self.columns))


def averaged(figures: Sequence[Figure]) -> Figure:
    """One figure as it is; of several their mean, which has no interval."""
    if len(figures) == 1:
        return figures[0]
    return Figure(fmean(figure.value for figure in figures))
