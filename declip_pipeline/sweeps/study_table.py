"""A study's figures as a table: by generator, layer, decoder or whatever its runs differ in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from declip_pipeline.sweeps.cross_evaluation import Evaluation

IN_DOMAIN, OUT_OF_DOMAIN = "ID", "OOD"


@dataclass(frozen=True)
class StudyTable:
    """`values` (R, C) float64 for the names of its rows and columns, NaN where there is none."""

    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray

    def value(self, row: str, column: str) -> float:
        """One cell; NaN where the table has no such row or column."""
        if row not in self.rows or column not in self.columns:
            return float("nan")
        return float(self.values[self.rows.index(row), self.columns.index(column)])


def generator_table(evaluations: Sequence[Evaluation], metric: str) -> StudyTable:
    """Rows: the generators tested on; columns: what each run learned ("ldm", "lama+ldm").

    Several runs or stores of a cell are averaged. Generators that were learned come first, in the
    order of the columns.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for evaluation in evaluations:
        for generator, figures in evaluation.figures.items():
            value = figures[metric]
            if value is not None:
                column = "+".join(evaluation.trained_on)
                cells.setdefault((generator, column), []).append(value)
    columns = ["+".join(evaluation.trained_on) for evaluation in evaluations]
    tested = [generator for evaluation in evaluations for generator in evaluation.figures]
    rows = [*(column for column in columns if column in tested), *tested]
    return _table("tested on \\ trained on", rows, columns, cells)


def domain_table(
    evaluations: Sequence[Evaluation],
    metric: str,
    row_of: Callable[[Evaluation], str],
    corner: str,
) -> StudyTable:
    """Rows: what `row_of` says of a run; columns: the means in domain and out of domain.

    In domain are the generators that a run learned. A mean is one over cells: a run's figure on a
    generator, however many pictures that has (DeCLIP, section 4).
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for evaluation in evaluations:
        for generator, figures in evaluation.figures.items():
            value = figures[metric]
            if value is not None:
                learned = generator in evaluation.trained_on
                column = IN_DOMAIN if learned else OUT_OF_DOMAIN
                cells.setdefault((row_of(evaluation), column), []).append(value)
    rows = [row_of(evaluation) for evaluation in evaluations]
    return _table(corner, rows, [IN_DOMAIN, OUT_OF_DOMAIN], cells)


def _table(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: dict[tuple[str, str], list[float]],
) -> StudyTable:
    rows, columns = tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(columns))
    values = [
        [fmean(cells[row, column]) if (row, column) in cells else np.nan for column in columns]
        for row in rows
    ]
    return StudyTable(corner, rows, columns, np.array(values).reshape(len(rows), len(columns)))
