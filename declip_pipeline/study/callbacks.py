"""Callables that follow a study while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from declip_pipeline.sweeps.grid import CellResult

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""

RowsProgress = Callable[[Sequence[CellResult]], None]
"""Called with all rows of a grid after each change."""


@contextmanager
def _no_progress(what: str, unit: str = "images") -> Iterator[Progress]:
    yield lambda done, total: None


@contextmanager
def _no_rows() -> Iterator[RowsProgress]:
    yield lambda rows: None


@dataclass(frozen=True)
class Callbacks:
    """Callables that follow a study; each does nothing by default.

    Attributes:
        begun: Called with a step (`ExtractionStep`, `TrainingStep`) that begins.
        notice: Called with a line for the user.
        made: Called with the location of each store and of each grid's table.
        progress: `progress(what, unit)` opens a context whose value is called as
            `tell(done, total)`, numbers of units.
        rows: `rows()` opens a context whose value is called with the rows of a grid.
    """

    begun: Callable[[Any], None] = lambda step: None
    notice: Callable[[str], None] = lambda line: None
    made: Callable[[str], None] = lambda place: None
    progress: Callable[..., AbstractContextManager[Progress]] = _no_progress
    rows: Callable[[], AbstractContextManager[RowsProgress]] = _no_rows


SILENT = Callbacks()
"""Callbacks that do nothing."""
