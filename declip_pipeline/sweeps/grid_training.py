"""Training of a grid from flat options: layers, decoders, seeds and the rest of a recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from declip_pipeline.backbones.registry import select_layers
from declip_pipeline.decoders.names import is_fitted
from declip_pipeline.errors import InputError
from declip_pipeline.feeding.inputs import JOIN
from declip_pipeline.store.reader import Store, as_store, distinct_stores, repeated_text
from declip_pipeline.sweeps.grid import (
    CellResult,
    Grid,
    RunGroups,
    cell_result,
    claim_folder,
    grid_name,
    one_after_another,
)
from declip_pipeline.sweeps.grid_job import Cell, GridJob, grid_cells, training_fields
from declip_pipeline.sweeps.grid_trainer import GridTrainer
from declip_pipeline.training.recipe import PLATEAU_EPOCHS
from declip_pipeline.training.recipes import CHOSEN
from declip_pipeline.training.run import require_name


class GridTraining:
    """Trainings of a grid, planned and checked before the first one begins.

    Attributes:
        trainer: Trains its cells in this process.
        cells: The trainings, each combination of the options that have several values.
    """

    def __init__(
        self,
        stores: Sequence[Store | str],
        options: Mapping[str, Any],
        *,
        dask: str | None = None,
        scheduler: str | None = None,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Plan the trainings.

        Args:
            stores: Stores to train on, or their locations.
            options: Values by the names of `training_fields()`; those of a grid are lists. What is
                left out has its default; `layer` is required.
            dask: Workers that train; see `open_client`. This process trains where neither
                this nor `scheduler` is given.
            scheduler: Address of a Dask scheduler whose workers train.
            notice: Called with lines for the user.

        Raises:
            InputError: For options that do not fit each other or the stores, a layer, decoder
                or generator that is not known (`UnknownNameError`), a value given twice.
            OutputExistsError: `name` is the folder of something else.
            StoreError: A store cannot be opened.
        """
        self._workers = {"dask": dask, "scheduler": scheduler}
        self._notice = notice
        self._device = str(options.get("device", "auto"))
        opened, repeated = distinct_stores([as_store(one) for one in stores])
        for place in repeated:
            notice(repeated_text(place))
        job, self.cells = _plan(opened, options, with_workers=self.has_workers)
        job.require_widths_taken(cell.decoder_type for cell in self.cells)
        if all(is_fitted(cell.decoder_type) for cell in self.cells):
            _refuse_for_fitted(job, self.cells)
        self.trainer = GridTrainer(job, notice, opened)
        self.cells = [self.trainer.settled(cell) for cell in self.cells]
        for cell in self.cells:
            self.trainer.plan(cell)
        self._is_named = options.get("name") is not None and job.name is None

    @cached_property
    def folder(self) -> Path:
        """The folder of the grid's table; of a grid with a name, that of its runs, too."""
        runs = Path(self.job.runs)
        return runs if self._is_named else runs / self._grid

    @cached_property
    def _grid(self) -> str:
        return grid_name(self.trainer.identity(), self.cells)

    @property
    def job(self) -> GridJob:
        """Job that the trainings have in common."""
        return self.trainer.job

    @property
    def has_workers(self) -> bool:
        """Return whether worker processes train."""
        return any(place is not None for place in self._workers.values())

    def run(
        self, on_change: Callable[[Sequence[CellResult]], None] = lambda rows: None
    ) -> list[CellResult]:
        """Train every cell, or find it finished; returns a row for each, finished or failed.

        `on_change(rows)` is called with all rows after each change. The rows are kept in
        `results.csv` and `results.parquet` in the grid's folder.
        """
        if self._is_named:
            claim_folder(self.folder, self._grid)
        with self._training() as (run_groups, groups):
            grid = Grid(
                self.cells,
                self.folder,
                run_groups,
                groups=groups,
                score=self.job.recipe.score,
                on_change=on_change,
            )
            return grid.run()

    def finished(self) -> list[CellResult]:
        """Return a row for each cell, finished or waiting, without training or writing anything."""
        return [
            cell_result(cell, run) if run.is_finished else CellResult.of(cell, "waiting")
            for cell in self.cells
            for run in [self.trainer.plan(cell).folder]
        ]

    @contextmanager
    def _training(self) -> Iterator[tuple[RunGroups, list[list[int]]]]:
        """Yield what trains, and the groups of cells to train side by side."""
        groups = self.trainer.groups(self.cells)
        if not self.has_workers:
            yield one_after_another(self.trainer.train), groups
            return
        from declip_pipeline.jobs.cluster import open_client
        from declip_pipeline.sweeps.trainer import WorkerTraining

        with open_client(**self._workers, notice=self._notice) as client:
            job = replace(self.job, device=self._device)
            training = WorkerTraining(client, job, self.cells, notice=self._notice)
            yield training, training.split(groups)
            training.release()


def _refuse_for_fitted(job: GridJob, cells: Sequence[Cell]) -> None:
    """Raise `InputError` for options that none of the decoders takes, since all are fitted."""
    names = ", ".join(dict.fromkeys(cell.decoder_type for cell in cells))
    for option, given, why in (
        (f'precision="{job.precision}"', job.precision not in ("auto", "float32"), "in float32"),
        ("compile", job.recipe.compile, "without a step that torch.compile could compile"),
    ):
        if given:
            raise InputError(
                f"`{option}` means nothing to {names}, fitted {why}; leave it out or choose "
                "another decoder"
            )


def _plan(
    stores: Sequence[Store], given: Mapping[str, Any], *, with_workers: bool
) -> tuple[GridJob, list[Cell]]:
    """Return the job and the cells of flat options."""
    defaults = {
        name: [field.default] if field.option.several else field.default
        for name, field in training_fields().items()
        if field.default is not MISSING
    }
    options = {**defaults, **given}
    cells = grid_cells(
        layers_of(options.pop("layer"), list(stores[0].layers)),
        options["decoder_type"],
        options.pop("seed"),
        options.pop("learning_rate"),
        options.pop("train_on") or [None],
    )
    if options["recipe_name"] != "paper":
        options["chosen"] = tuple(name for name in CHOSEN if name not in given)
    if "epochs" in options.get("chosen", ()):
        options["epochs"] = PLATEAU_EPOCHS  # until each cell has its own
    options["decoder_type"] = cells[0].decoder_type
    if options.get("initial_weights"):
        # As workers elsewhere find it.
        options["initial_weights"] = str(Path(options["initial_weights"]).absolute())
    name = options["name"]
    if name is not None:
        require_name(name)
    if name is not None and (len(cells) > 1 or with_workers):
        options |= {"runs": str(Path(options["runs"], name)), "name": None}
    if with_workers and options["device"] == "cuda":
        options["device"] = "auto"  # this process may lack what workers have
    return GridJob.of([store.location for store in stores], options), cells


def layers_of(items: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the layers of a list of names, numbers, ranges and joined layers ("layer8+layer14").

    Raises `InputError`, `UnknownNameError` for one that is not among the known ones.
    """
    found = []
    for item in items:
        if JOIN not in item:
            found.extend(select_layers(item, known))
            continue
        if not all(part.strip() for part in item.split(JOIN)):
            raise InputError(f"{item!r} lacks a layer; write layers to join as layer8{JOIN}layer14")
        parts = [select_layers(part, known) for part in item.split(JOIN)]
        found.append(JOIN.join(layer for some in parts for layer in some))
    return list(dict.fromkeys(found))
