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


# Trains a cell, or finds it finished.
TrainCell = Callable[[Cell, Callable[[Epoch], None]], RunFolder]


class Grid:
    """Runs the cells of a grid one after another and keeps a table of them.

    Each cell is a run of its own, found again by what it is: what is finished is skipped, what was
    interrupted goes on. A cell that fails is a row with its reason, and the others go on. Several
    processes may work on one grid: each leaves aside what another is at, and waits for it last.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        train: TrainCell,
        *,
        on_change: Callable[[list[CellResult]], None] = lambda results: None,
    ) -> None:
        """`folder` is for the table; `on_change` is told all rows after each change and epoch."""
        self.cells = list(cells)
        self.folder = folder
        self._train = train
        self._on_change = on_change
        self._results = [_row(cell, "waiting") for cell in self.cells]

    def run(self) -> list[CellResult]:
        """Train all cells; returns their rows, each `finished` or `failed`."""
        self._tell(number=None)
        left = list(range(len(self.cells)))
        while left:
            busy = [number for number in left if not self._run_cell(number)]
            if busy == left:
                time.sleep(BUSY_SECONDS)
            left = busy
        return self._results

    def _run_cell(self, number: int) -> bool:
        """Train one cell; False when another process is at it."""
        cell = self.cells[number]
        epochs: list[Epoch] = []

        def on_epoch(epoch: Epoch) -> None:
            epochs.append(epoch)
            best = max(epochs, key=lambda epoch: epoch.valid_iou)
            self._results[number] = _row(
                cell,
                "running",
                best_valid_iou=best.valid_iou,
                best_epoch=best.epoch,
                epochs=epoch.epoch,
            )
            self._on_change(self._results)

        self._tell(number, _row(cell, "running"))
        try:
            run = self._train(cell, on_epoch)
            summary = run.summary()
        except RunBusyError:
            self._tell(number, _row(cell, "elsewhere"))
            return False
        except Exception as error:
            # One that cannot be trained, for whatever reason, is no reason to lose the others.
            kind = "" if isinstance(error, DeclipError) else f"{type(error).__name__}: "
            reason = kind + " ".join(str(error).split())
            self._tell(number, _row(cell, "failed", reason=reason))
            return True
        names = ("best_valid_iou", "best_epoch", "epochs", "seconds")
        figures = {name: summary.get(name) for name in names}
        self._tell(number, _row(cell, "finished", run=str(run.path), **figures))
        return True

    def _tell(self, number: int | None, result: CellResult | None = None) -> None:
        if number is not None and result is not None:
            self._results[number] = result
        write_table(self.folder, self._results)
        self._on_change(self._results)


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
