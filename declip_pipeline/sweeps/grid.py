"""Many trainings as one: a grid of layers, decoders, seeds, learning rates and training sets."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from declip_pipeline.atomic_files import write_bytes
from declip_pipeline.errors import DeclipError, InputError, RunBusyError
from declip_pipeline.fingerprint import sha256_of_json
from declip_pipeline.training.run_folder import RunFolder
from declip_pipeline.training.train import Epoch

# Between two looks at runs that another process is at.
BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class Cell:
    """One training of a grid. `train_on` names the generators to learn, None for all."""

    layer: str
    decoder_type: str
    seed: int
    learning_rate: float
    train_on: tuple[str, ...] | None


def grid_cells(
    layers: Sequence[str],
    decoder_types: Sequence[str],
    seeds: Sequence[int],
    learning_rates: Sequence[float],
    train_sets: Sequence[tuple[str, ...] | None],
) -> list[Cell]:
    """Every combination, those that read the same rows of the same layer one after another.

    Raises `InputError` for a value that is given twice.
    """
    axes = (train_sets, layers, decoder_types, learning_rates, seeds)
    for values in axes:
        repeated = next((value for value in values if list(values).count(value) > 1), None)
        if repeated is not None:
            raise InputError(f"{repeated!r} is given twice; give each value of a grid once")
    return [
        Cell(layer, decoder_type, seed, learning_rate, train_on)
        for train_on, layer, decoder_type, learning_rate, seed in product(*axes)
    ]


State = Literal["waiting", "running", "elsewhere", "finished", "failed"]


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell: a row of the grid's table.

    `best_valid_iou` is in percent. `reason` says why it failed. What is not known yet is None.
    """

    layer: str
    decoder_type: str
    seed: int
    learning_rate: float
    train_on: str
    state: State
    run: str | None = None
    best_valid_iou: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    reason: str | None = None


# Trains cells side by side, or finds them finished; is to tell the number of one among them and its
# epochs. A run's folder for each, or why there is none.
TrainCells = Callable[
    [Sequence[Cell], Callable[[int, Epoch], None]], Sequence[RunFolder | Exception]
]


class Grid:
    """Runs the cells of a grid group after group and keeps a table of them.

    Each cell is a run of its own, found again by what it is: what is finished is skipped, what was
    interrupted goes on. A cell that fails is a row with its reason, and the others go on. Several
    processes may work on one grid: each leaves aside what another is at, and waits for it last.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        train: TrainCells,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        on_change: Callable[[list[CellResult]], None] = lambda results: None,
    ) -> None:
        """`folder` is for the table; `on_change` is told all rows after each change and epoch.

        `groups` are the numbers of cells that are trained side by side, each by itself where None.
        """
        self.cells = list(cells)
        self.folder = folder
        self._train = train
        self._groups = groups or [[number] for number in range(len(self.cells))]
        self._on_change = on_change
        self._results = [_row(cell, "waiting") for cell in self.cells]

    def run(self) -> list[CellResult]:
        """Train all cells; returns their rows, each `finished` or `failed`."""
        self._tell({})
        left = [list(group) for group in self._groups]
        while left:
            busy = [some for group in left if (some := self._run_group(group))]
            if busy == left:
                time.sleep(BUSY_SECONDS)
            left = busy
        return self._results

    def _run_group(self, group: list[int]) -> list[int]:
        """Train cells side by side; returns those that another process is at."""
        best: dict[int, Epoch] = {}

        def on_epoch(place: int, epoch: Epoch) -> None:
            number = group[place]
            if number not in best or epoch.valid_iou > best[number].valid_iou:
                best[number] = epoch
            self._results[number] = _row(
                self.cells[number],
                "running",
                best_valid_iou=best[number].valid_iou,
                best_epoch=best[number].epoch,
                epochs=epoch.epoch,
            )
            self._on_change(self._results)

        cells = [self.cells[number] for number in group]
        self._tell({number: _row(self.cells[number], "running") for number in group})
        try:
            outcomes = self._train(cells, on_epoch)
        except Exception as error:
            # What cannot be trained, for whatever reason, is no reason to lose the others.
            outcomes = [error] * len(group)
        rows = {
            number: _result(self.cells[number], outcome)
            for number, outcome in zip(group, outcomes, strict=True)
        }
        self._tell(rows)
        return [number for number, row in rows.items() if row.state == "elsewhere"]

    def _tell(self, changed: Mapping[int, CellResult]) -> None:
        for number, row in changed.items():
            self._results[number] = row
        write_table(self.folder, self._results)
        self._on_change(self._results)


def _result(cell: Cell, outcome: RunFolder | Exception) -> CellResult:
    """The row of a cell by what came of it."""
    if isinstance(outcome, RunFolder):
        try:
            summary = outcome.summary()
        except DeclipError as error:
            return _result(cell, error)
        names = ("best_valid_iou", "best_epoch", "epochs", "seconds")
        figures = {name: summary.get(name) for name in names}
        return _row(cell, "finished", run=str(outcome.path), **figures)
    if isinstance(outcome, RunBusyError):
        return _row(cell, "elsewhere")
    kind = "" if isinstance(outcome, DeclipError) else f"{type(outcome).__name__}: "
    return _row(cell, "failed", reason=kind + " ".join(str(outcome).split()))


def grid_name(identity: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """The name of a grid's folder: the same cells of the same stores have the same."""
    content = {**identity, "cells": [asdict(cell) for cell in cells]}
    return f"grid_{sha256_of_json(content)[:12]}"


def write_table(folder: Path, results: Sequence[CellResult]) -> None:
    """Write `results.csv` and `results.parquet`, each whole or not at all."""
    schema = pa.schema(
        [
            ("layer", pa.string()),
            ("decoder_type", pa.string()),
            ("seed", pa.int64()),
            ("learning_rate", pa.float64()),
            ("train_on", pa.string()),
            ("state", pa.string()),
            ("run", pa.string()),
            ("best_valid_iou", pa.float64()),
            ("best_epoch", pa.int64()),
            ("epochs", pa.int64()),
            ("seconds", pa.float64()),
            ("reason", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([asdict(result) for result in results], schema=schema)
    for name, write in (
        ("results.csv", pyarrow.csv.write_csv),
        ("results.parquet", pyarrow.parquet.write_table),
    ):
        content = io.BytesIO()
        write(table, content)
        write_bytes(folder / name, content.getvalue())


def _row(cell: Cell, state: State, **known: Any) -> CellResult:
    return CellResult(
        layer=cell.layer,
        decoder_type=cell.decoder_type,
        seed=cell.seed,
        learning_rate=cell.learning_rate,
        train_on="all" if cell.train_on is None else "+".join(cell.train_on),
        state=state,
        **known,
    )
