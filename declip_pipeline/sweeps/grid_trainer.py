"""Trains the cells of a grid in this process."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from declip_pipeline.compute import choose_device
from declip_pipeline.decoders.names import is_fitted, read_decoder_type
from declip_pipeline.errors import DeclipError, RunBusyError
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.grid_job import Cell, GridJob
from declip_pipeline.training.data import TrainingData, sources_beside
from declip_pipeline.training.recipe import choose_precision
from declip_pipeline.training.recipes import CHOSEN, recipe_defaults
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import PlannedRun, images_of_epoch, plan_run, train_runs
from declip_pipeline.training.tensorboard_log import require_tensorboard, tensorboard_log
from declip_pipeline.training.train import Epoch


class GridTrainer:
    """Trains cells of a job in this process; what they read is kept from one to the next."""

    def __init__(
        self,
        job: GridJob,
        notice: Callable[[str], None] = lambda line: None,
        stores: Sequence[Store] = (),
    ) -> None:
        """Open the stores of a job, unless they are given as `stores`.

        Raises `StoreError` for a store that cannot be opened, `InputError`.
        """
        if job.tensorboard:
            require_tensorboard()
        self.job = job
        self._notice = notice
        self._plans: dict[Cell, PlannedRun] = {}
        self.stores = list(stores) or [Store(place) for place in job.stores]

    @cached_property
    def data(self) -> TrainingData:
        """Data of the trainings."""
        return TrainingData(
            self.stores,
            beside=sources_beside((Store(place), layer) for place, layer in self.job.beside),
            fusion=self.job.fusion,
            uncached=self.job.uncached,
            device=choose_device(self.job.device),
            notice=self._notice,
        )

    def identity(self) -> dict[str, Any]:
        """Return what tells this grid from another of the same cells, as plain JSON."""
        job = self.job
        return {
            "stores": [store.identity.sha256 for store in self.stores],
            "beside": [[Store(place).identity.sha256, layer] for place, layer in job.beside],
            "fusion": job.fusion,
            "precision": job.precision,
            **({"uncached": True} if job.uncached else {}),
            **({"recipe_name": job.recipe_name} if job.chosen else {}),
            **job.recipe.to_json(),
        }

    def settled(self, cell: Cell) -> Cell:
        """Return a cell with the learning rate that is chosen for it, where it is."""
        chosen = self._chosen(cell)
        return replace(cell, learning_rate=chosen.get("learning_rate", cell.learning_rate))

    def _chosen(self, cell: Cell) -> dict[str, Any]:
        """Return the fields of the recipe that are chosen for a cell."""
        if not self.job.chosen:
            return {}
        generators = tuple(sorted(set(cell.train_on or self.data.generators)))
        images = images_of_epoch(self.data, generators, self.job.recipe)
        given = {
            name: getattr(self.job.recipe, name) for name in CHOSEN if name not in self.job.chosen
        }
        values = recipe_defaults(self.job.recipe_name, cell.decoder_type, images, given)
        return {name: values[name] for name in self.job.chosen if name in values}

    def plan(self, cell: Cell) -> PlannedRun:
        """The run that a cell is. Raises what `plan_run` does."""
        if cell not in self._plans:
            self._plans[cell] = self._plan(cell)
        return self._plans[cell]

    def _plan(self, cell: Cell) -> PlannedRun:
        # Without a cache all is as published.
        is_published = self.job.uncached and self.job.precision == "auto"
        asked = "float32" if is_published else self.job.precision
        kind = read_decoder_type(cell.decoder_type)
        precision: Any = choose_precision(asked, cell.decoder_type, self.data.device)
        recipe = replace(
            self.job.recipe,
            **{name: v for name, v in self._chosen(cell).items() if name != "learning_rate"},
            decoder_type=cell.decoder_type,
            # Widths and options go to the decoders of a grid that take them.
            widths=self.job.widths_of(cell.decoder_type),
            decoder_options=self.job.recipe.decoder_options if kind.found else {},
            seed=cell.seed,
            learning_rate=cell.learning_rate,
            precision=precision,
        )
        return plan_run(
            self.data,
            Path(self.job.runs),
            layer=cell.layer,
            recipe=recipe,
            train_on=cell.train_on,
            name=self.job.name,
        )

    def groups(self, cells: Sequence[Cell]) -> list[list[int]]:
        """Which cells are trained side by side, as their numbers.

        Linear decoders and those that are fitted cost less than what they read: those with the same
        images in the same order, on as many layers as the fast tier keeps together, are one group.
        All others are groups of their own.
        """
        groups: list[list[int]] = []
        together: dict[Any, list[int]] = {}
        for number, cell in enumerate(cells):
            if is_light(cell):
                key = cell.train_on, cell.seed, self.plan(cell).recipe.batch_size
                together.setdefault(key, []).append(number)
                if together[key] == [number]:
                    groups.append(together[key])
            else:
                groups.append([number])
        parts = [part for group in groups for part in self._fitting(group, cells)]
        # Those that read the same one after another, whatever their seeds.
        places: dict[Any, int] = {}
        for part in parts:
            places.setdefault(_read_by(part, cells), len(places))
        return sorted(parts, key=lambda part: places[_read_by(part, cells)])

    def _fitting(self, group: list[int], cells: Sequence[Cell]) -> list[list[int]]:
        if len(group) == 1:
            return [group]
        cell = cells[group[0]]
        layers = list(dict.fromkeys(cells[number].layer for number in group))
        inputs = {layer: self.data.inputs(layer) for layer in layers}
        generators = cell.train_on or self.data.generators
        recipe = self.job.recipe
        parts = self.data.at_once(
            list(inputs.values()), generators, recipe.targets, recipe.with_real > 0
        )
        return [
            [number for number in group if inputs[cells[number].layer] in part] for part in parts
        ]

    def train(
        self, cells: Sequence[Cell], on_epoch: Callable[[int, Epoch], None]
    ) -> list[Run | DeclipError]:
        """Train cells of one group, or find them finished; a run's folder for each, or an error.

        `on_epoch` is told the number of the cell in `cells`.
        """
        runs = [self.plan(cell) for cell in cells]
        with tensorboard_log() if self.job.tensorboard else nullcontext() as log:

            def tell(number: int, epoch: Epoch) -> None:
                if log is not None:
                    log(runs[number].folder, epoch)
                on_epoch(number, epoch)

            outcomes = train_runs(self.data, runs, tell)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, RunBusyError):
                for record in runs[number].folder.epochs():
                    on_epoch(number, Epoch.from_json(record))
        return [
            run.folder if error is None else error
            for run, error in zip(runs, outcomes, strict=True)
        ]


def _read_by(group: Sequence[int], cells: Sequence[Cell]) -> Any:
    """Return what a group of cells reads."""
    return cells[group[0]].train_on, frozenset(cells[number].layer for number in group)


def is_light(cell: Cell) -> bool:
    """Return whether training a cell's decoder costs less than feeding it."""
    return cell.decoder_type == "linear" or is_fitted(cell.decoder_type)
