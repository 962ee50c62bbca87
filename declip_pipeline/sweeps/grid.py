"""Many trainings as one: a grid of layers, decoders, seeds, learning rates and training sets."""

import io
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from declip_pipeline.errors import DeclipError, OutputExistsError, RunBusyError
from declip_pipeline.files import remove_abandoned, sha256_of_json, write_bytes, write_json
from declip_pipeline.sweeps.grid_job import Cell
from declip_pipeline.training.run import Run
from declip_pipeline.training.train import Epoch
from declip_pipeline.training.validation_score import ScoreName, score_name

# Between two looks at runs that another process is at.
BUSY_SECONDS = 2.0
# The table is written when a run begins or ends; of epochs in between, not more often than this.
TABLE_SECONDS = 2.0


State = Literal["waiting", "running", "elsewhere", "finished", "failed"]


@dataclass(frozen=True)
class CellResult:
    """Row of a grid's table: what is known of a cell.

    `best_valid_iou` (of detection `best_valid_ap`) is in percent. `reason` says why it failed,
    `problem` what is wrong with how it learned. What is not known yet is None.
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
    best_valid_ap: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, cell: Cell, state: State, **known: Any) -> "CellResult":
        """Return the row of a cell with what is known of it."""
        return cls(
            layer=cell.layer,
            decoder_type=cell.decoder_type,
            seed=cell.seed,
            learning_rate=cell.learning_rate,
            train_on="all" if cell.train_on is None else "+".join(cell.train_on),
            state=state,
            **known,
        )

    @property
    def best_score(self) -> float | None:
        """The one of the two that is known."""
        return self.best_valid_iou if self.best_valid_ap is None else self.best_valid_ap


# A run's folder for each cell of a group, or why there is none.
Outcomes = Sequence[Run | Exception]
# Trains cells side by side, or finds them finished; is to tell the number of one among them and its
# epochs.
TrainCells = Callable[[Sequence[Cell], Callable[[int, Epoch], None]], Outcomes]
# An epoch's number and its validation score in percent.
EpochScore = tuple[int, float]


class RunGroups(Protocol):
    """Trains groups of cells, one after another or several at once; yields each as it ends."""

    def __call__(
        self,
        cells: Sequence[Cell],
        groups: Sequence[list[int]],
        begun: Callable[[list[int]], None],
        learned: Callable[[int, Sequence[EpochScore]], None],
    ) -> Generator[tuple[list[int], Outcomes], None, None]:
        """`groups` are numbers of `cells`.

        It tells `begun` each group that it begins, and `learned` the number of a cell with its new
        epochs, at least one. What it raises ends the grid; what is wrong with a group is no more
        than its outcome.
        """
        ...


def one_after_another(train: TrainCells) -> RunGroups:
    """Groups trained in this process by `train`."""

    def run(
        cells: Sequence[Cell],
        groups: Sequence[list[int]],
        begun: Callable[[list[int]], None],
        learned: Callable[[int, Sequence[EpochScore]], None],
    ) -> Generator[tuple[list[int], Outcomes], None, None]:
        def train_group(group: list[int]) -> Outcomes:
            def on_epoch(place: int, epoch: Epoch) -> None:
                learned(group[place], [(epoch.epoch, epoch.valid_score)])

            return train([cells[number] for number in group], on_epoch)

        for group in groups:
            begun(group)
            try:
                outcomes = train_group(group)
            except Exception as error:
                # What cannot be trained, for whatever reason, is no reason to lose the others.
                outcomes = [error] * len(group)
            yield group, outcomes

    return run


class Grid:
    """Runs the cells of a grid in groups and keeps a table of them.

    Each cell is a run of its own, found again by what it is: what is finished is skipped, what was
    interrupted goes on. A cell that fails is a row with its reason, and the others go on. Several
    processes may work on one grid: each leaves aside what another is at, and waits for it last.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        run_groups: RunGroups,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        score: ScoreName = "iou",
        on_change: Callable[[list[CellResult]], None] = lambda results: None,
    ) -> None:
        """`folder` is for the table; `on_change` is told all rows after each change and epoch.

        `groups` are the numbers of cells that are trained side by side, each by itself where None.
        `score` is the name of what epochs are evaluated by.
        """
        self.cells = list(cells)
        self.folder = folder
        self._run_groups = run_groups
        self._groups = groups or [[number] for number in range(len(self.cells))]
        self._score = score
        self._on_change = on_change
        self._results = [CellResult.of(cell, "waiting") for cell in self.cells]
        self._best: dict[int, EpochScore] = {}
        self._written = 0.0

    def run(self) -> list[CellResult]:
        """Train all cells; returns their rows, each `finished` or `failed`."""
        remove_abandoned(self.folder)
        self._tell({})
        left = [list(group) for group in self._groups]
        while left:
            busy: list[list[int]] = []
            with closing(
                self._run_groups(self.cells, left, self._begun, self._learned)
            ) as ended_groups:
                for group, outcomes in ended_groups:
                    if some := self._ended(group, outcomes):
                        busy.append(some)
            if sorted(busy) == sorted(left):
                time.sleep(BUSY_SECONDS)
            left = busy
        return self._results

    def _begun(self, group: list[int]) -> None:
        self._tell({number: CellResult.of(self.cells[number], "running") for number in group})

    def _learned(self, number: int, epochs: Sequence[EpochScore]) -> None:
        before = [self._best[number]] if number in self._best else []
        best = self._best[number] = max([*before, *epochs], key=lambda epoch: epoch[1])
        self._results[number] = CellResult.of(
            self.cells[number],
            "running",
            best_epoch=best[0],
            epochs=epochs[-1][0],
            **{f"best_valid_{self._score}": best[1]},
        )
        if time.monotonic() > self._written + TABLE_SECONDS:
            self._write()
        self._on_change(self._results)

    def _ended(self, group: list[int], outcomes: Outcomes) -> list[int]:
        """Take in what came of a group; returns those that another process is at."""
        rows = {
            number: (
                # What is known of it so far stands.
                replace(self._results[number], state="elsewhere")
                if isinstance(outcome, RunBusyError)
                else cell_result(self.cells[number], outcome)
            )
            for number, outcome in zip(group, outcomes, strict=True)
        }
        self._tell(rows)
        return [number for number, row in rows.items() if row.state == "elsewhere"]

    def _tell(self, changed: Mapping[int, CellResult]) -> None:
        for number, row in changed.items():
            self._results[number] = row
        self._write()
        self._on_change(self._results)

    def _write(self) -> None:
        write_table(self.folder, self._results)
        self._written = time.monotonic()


def cell_result(cell: Cell, outcome: Run | Exception) -> CellResult:
    """Return the row of a cell by what came of it."""
    if isinstance(outcome, Run):
        try:
            summary = outcome.summary()
        except DeclipError as error:
            return cell_result(cell, error)
        score = score_name(summary, "best_valid_")
        names = (f"best_valid_{score}", "best_epoch", "epochs", "seconds", "problem")
        figures = {name: summary.get(name) for name in names}
        return CellResult.of(cell, "finished", run=str(outcome.path), **figures)
    kind = "" if isinstance(outcome, DeclipError) else f"{type(outcome).__name__}: "
    return CellResult.of(cell, "failed", reason=kind + " ".join(str(outcome).split()))


def grid_name(identity: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """The name of a grid's folder: the same cells of the same stores have the same."""
    content = {**identity, "cells": [asdict(cell) for cell in cells]}
    return f"grid_{sha256_of_json(content)[:12]}"


def claim_folder(folder: Path, name: str) -> None:
    """Make a folder that a user named the grid's, which `grid_name` names.

    Raises `OutputExistsError` when it holds another grid, a run or anything else.
    """
    marker = folder / "grid.json"
    if marker.is_file():
        try:
            found = json.loads(marker.read_bytes())["grid"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if found != name:
            raise OutputExistsError(f"{folder} holds another grid; choose another `name`")
        return
    if folder.exists() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder} holds other files; choose another `name`")
    write_json(marker, {"grid": name})


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
            ("best_valid_ap", pa.float64()),
            ("problem", pa.string()),
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
