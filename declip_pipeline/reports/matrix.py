"""Train x test matrix: its ID and OOD means, and the matrix as a table."""

from collections.abc import Sequence

import numpy as np

from declip_pipeline.errors import InputError

MISSING = "-"

Column = str | tuple[str, ...]
"""Generators that a column was trained on: one, or several together."""


def checked_matrix(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[Column]
) -> np.ndarray:
    """Return `values` as float64 (R, C). Raises `InputError` when the names do not fit."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)) or matrix.size == 0:
        raise InputError(
            f"matrix has shape {matrix.shape}; expected {(len(rows), len(columns))} for "
            f"{len(rows)} test rows and {len(columns)} training columns, at least one of each"
        )
    return matrix


def column_name(column: Column) -> str:
    """Return the name of a column: its generators joined by "+"."""
    return "+".join(_generators(column))


def in_domain(
    rows: Sequence[str], columns: Sequence[Column], known: np.ndarray | None = None
) -> np.ndarray:
    """Return the cells in domain, (R, C) bool: `known`, or those whose row's name is in the column.

    Raises: InputError when `known` has another shape.
    """
    if known is not None:
        found: np.ndarray = checked_matrix(known, rows, columns) == 1
        return found
    return np.array([[row in _generators(column) for column in columns] for row in rows], bool)


def _out_of_domain(same: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Return the cells out of domain: all others, but for those of which nothing is known."""
    outside: np.ndarray = ~same
    return outside if known is None else outside & ~np.isnan(np.asarray(known, np.float64))


def has_means(domain: np.ndarray | None) -> bool:
    """Return whether a cell is in domain or out of domain; `domain` as `matrix_means` takes it."""
    return domain is None or not bool(np.isnan(np.asarray(domain, np.float64)).all())


def matrix_means(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[Column],
    domain: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the ID and the OOD mean of a matrix, in the unit of its values.

    values: (R, C) floating point, NaN where a cell is missing. rows: what each row was tested on.
    columns: what each column was trained on. domain: (R, C), 1 or True for ID, 0 for OOD, NaN for
    cells that are in neither mean; None goes by the names. ID is the mean of the cells in domain,
    OOD that of the others; missing cells are left out (`matrix_summary` says how many), and a mean
    of no cells is NaN.
    Raises: InputError when names and shape do not fit.
    Source: DeCLIP, section 4 (ID and OOD).
    """
    matrix = checked_matrix(values, rows, columns)
    same = in_domain(rows, columns, domain)
    return _mean(matrix[same]), _mean(matrix[_out_of_domain(same, domain)])


def matrix_summary(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[Column],
    decimals: int = 1,
    intervals: Sequence[tuple[float, float]] = (),
    domain: np.ndarray | None = None,
) -> str:
    """Return both means in one line, with the number of cells they are taken over.

    intervals: of the ID and of the OOD mean, (low, high) each, NaN where there is none. domain: as
    in `matrix_means`.
    """
    matrix = checked_matrix(values, rows, columns)
    same = in_domain(rows, columns, domain)
    means = matrix_means(values, rows, columns, domain)
    shown = [interval_text(*interval, decimals) for interval in intervals] or ["", ""]
    return ", ".join(
        f"{name} {_number(mean, decimals)}{interval} ({_count(cells)})"
        for name, mean, interval, cells in zip(
            ("ID", "OOD"),
            means,
            shown,
            (matrix[same], matrix[_out_of_domain(same, domain)]),
            strict=True,
        )
    )


def interval_text(low: float | None, high: float | None, decimals: int) -> str:
    """Return an interval as it follows its mean, " [49.8, 52.3]"; nothing where there is none."""
    if low is None or high is None or np.isnan(low):
        return ""
    return f" [{low:.{decimals}f}, {high:.{decimals}f}]"


def format_matrix_text(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[Column],
    decimals: int = 1,
    intervals: Sequence[tuple[float, float]] = (),
    domain: np.ndarray | None = None,
) -> str:
    """Return the matrix as aligned plain text for a terminal, with both means in the last line.

    Without that line where no cell is in either mean.

    intervals, domain: as `matrix_summary` takes them.
    """
    table = [["test \\ train", *map(column_name, columns)]]
    cells = _cells(values, rows, columns, decimals)
    table += [[name, *texts] for name, texts in zip(rows, cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True)]
        )
        for line in table
    ]
    if has_means(domain):
        lines.append(matrix_summary(values, rows, columns, decimals, intervals, domain))
    return "\n".join(lines) + "\n"


def _cells(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[Column], decimals: int
) -> list[list[str]]:
    matrix = checked_matrix(values, rows, columns)
    return [[_number(value, decimals) for value in row] for row in matrix]


def _generators(column: Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _number(value: float, decimals: int) -> str:
    return MISSING if np.isnan(value) else f"{value:.{decimals}f}"


def _count(cells: np.ndarray) -> str:
    present = int((~np.isnan(cells)).sum())
    noun = "cell" if cells.size == 1 else "cells"
    return f"{cells.size} {noun}" if present == cells.size else f"{present} of {cells.size} {noun}"


def _mean(cells: np.ndarray) -> float:
    present = cells[~np.isnan(cells)]
    return float(present.mean()) if present.size else float("nan")
