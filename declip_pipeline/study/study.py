"""Study: extractions, trainings, what their runs are evaluated on, and a table of it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from declip_pipeline.compute import choose_device
from declip_pipeline.errors import TrainingError
from declip_pipeline.evaluation.evaluate import EVALUATIONS, evaluate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import parse_aliases, require_known_aliases
from declip_pipeline.evaluation.scores import Task
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.study.callbacks import SILENT, Callbacks
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.tables import DETECTION, MATRIX, StudyMetric, StudyTable, study_tables
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.sweeps.grid_training import GridTraining
from declip_pipeline.training.run import Run


@dataclass(frozen=True)
class TrainingStep:
    """Trainings on the same stores: one, or a grid of them.

    Attributes:
        stores: Names of the study's extractions, or stores, or their locations.
        options: See `GridTraining`.
        dask: See `GridTraining`.
        scheduler: See `GridTraining`.
    """

    stores: tuple[StoreLike, ...]
    options: Mapping[str, Any]
    dask: str | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class EvaluationStep:
    """Evaluation of every run of a study.

    Attributes:
        stores: Names of the study's extractions, or stores, or their locations.
        split: Split to evaluate.
        generators: Generators to evaluate; None takes all.
        beside: Stores of the same images for decoders that take features of several stores.
        aliases: Two names of one generator in different datasets: "ns=navier-stokes".
    """

    stores: tuple[StoreLike, ...]
    split: str = "test"
    generators: tuple[str, ...] | None = None
    beside: tuple[StoreLike, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableForm:
    """Form of a study's tables.

    Attributes:
        rows: Fields of the rows, see `two_way_tables`.
        columns: Fields of the columns. By default what runs learned, of rows that are generators,
            otherwise in domain and out of domain.
        over: Fields that are averaged, see `two_way_tables`.
        metric: What the means are of; "detection_ap" and "detection_auc" are of whole images.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    over: tuple[str, ...] | None = None
    metric: StudyMetric = "iou"

    @property
    def column_fields(self) -> tuple[str, ...]:
        """Fields of the columns, the default ones where none are given."""
        return self.columns or ("train_on" if self.rows == ("generator",) else "domain",)

    @property
    def is_matrix(self) -> bool:
        """Return whether it is a train x test matrix."""
        return (self.rows, self.column_fields) == MATRIX

    @property
    def task(self) -> Task:
        """The task that the metric is of."""
        return "detection" if self.metric.startswith(DETECTION) else "localization"

    def of(
        self, evaluations: Sequence[Evaluation], aliases: Sequence[str] = ()
    ) -> list[StudyTable]:
        """Return the tables of evaluations; several where runs differ in more than a table shows.

        Raises `InputError`, `UnknownNameError` for fields that make no table.
        """
        return study_tables(
            evaluations,
            self.rows,
            self.column_fields,
            self.metric,
            over=self.over,
            aliases=parse_aliases(aliases),
        )


@dataclass(frozen=True)
class Study:
    """Extractions, trainings and evaluations for a table.

    Each step finds what an earlier run of it finished, and goes on where one was interrupted.
    Nothing is printed: `callbacks` follow what is done.

    Attributes:
        trainings: Trainings, each on stores that are extracted or there already.
        test: What every run is evaluated on.
        extractions: Extractions by the name that `trainings` and `test` have for their stores.
        table: What the tables show.
        device: Where runs are evaluated; see `choose_device`.
        callbacks: Callables that follow the study.
    """

    trainings: tuple[TrainingStep, ...]
    test: EvaluationStep
    extractions: Mapping[str, ExtractionStep] = field(default_factory=dict)
    table: TableForm = TableForm(rows=("generator",))
    device: str = "auto"
    callbacks: Callbacks = SILENT

    def run(self) -> list[StudyTable]:
        """Do all of it, or what is not done yet; returns the tables. Raises as `carry_out`."""
        return self.table.of(self.carry_out()[1], self.test.aliases)

    def carry_out(self) -> tuple[list[CellResult], list[Evaluation]]:
        """Do all of it, or what is not done yet; returns the runs and their evaluations.

        Raises:
            TrainingError: A run failed. The others are kept.
            DeclipError: What any of the steps raises.
        """
        self.extract()
        self.check()
        rows = self.train()
        require_finished(rows)
        return rows, self.evaluate(rows)

    def extract(self) -> None:
        """Extract every dataset, or find its stores complete. Raises as `ExtractionStep.run`."""
        for name, step in self.extractions.items():
            self.callbacks.begun(step)
            self._places[name] = tuple(step.run(self.callbacks))

    def check(self) -> Selection:
        """Refuse what cannot be evaluated, before any training; returns what will be.

        Raises as `Selection` does, and `InputError` for fields that make no table and for aliases
        of generators that occur nowhere.
        """
        test = self.test
        self.table.of([], test.aliases)
        if test.aliases:
            used = [test.stores, *(step.stores for step in self.trainings)]
            known = [
                (s.dataset, name)
                for some in used
                for s in self._opened(some)
                for name in s.generators
            ]
            require_known_aliases(parse_aliases(test.aliases), known)
        return Selection(
            self._opened(test.stores),
            split=test.split,
            generators=test.generators,
            beside=self._opened(test.beside),
            task=self.table.task,
        )

    def train(self) -> list[CellResult]:
        """Train every run, or find it finished; returns a row for each, finished or failed.

        Raises as `GridTraining` does, before the first training begins.
        """
        # All are planned first, so that what no run could do is refused before the first one.
        planned = deque(
            GridTraining(
                self._opened(step.stores),
                step.options,
                dask=step.dask,
                scheduler=step.scheduler,
                notice=self.callbacks.notice,
            )
            for step in self.trainings
        )
        rows = []
        for step in self.trainings:
            self.callbacks.begun(step)
            training = planned.popleft()
            with self.callbacks.rows() as tell:
                rows += training.run(tell)
            self.callbacks.made(str(training.folder / "results.csv"))
        return rows

    def evaluate(self, rows: Sequence[CellResult]) -> list[Evaluation]:
        """Evaluate the finished runs of `train`, in their order, and save that in their folders.

        Values that were saved before of the same weights on the same stores are taken. Raises as
        `evaluate` does.
        """
        runs = [Run(Path(row.run)) for row in rows if row.run is not None]
        selection = self.check()
        for run in runs:
            selection.check(run)
        device = choose_device(self.device)
        found = []
        with self.callbacks.progress("evaluating", "runs") as tell:
            for number, run in enumerate(runs):
                tell(number, len(runs))
                evaluation = evaluate(
                    run,
                    self._opened(self.test.stores),
                    split=selection.split,
                    generators=selection.generators,
                    beside=selection.beside,
                    task=selection.task,
                    device=device,
                    reuse=True,
                )
                evaluation.save(run.path / EVALUATIONS)
                found.append(evaluation)
            tell(len(runs), len(runs))
        return found

    def places(self, stores: Sequence[StoreLike]) -> list[str]:
        """Return locations of stores, some of which are named as extractions."""
        return [
            place.location if isinstance(place, Store) else str(place)
            for place in self._placed(stores)
        ]

    def _placed(self, stores: Sequence[StoreLike]) -> list[StoreLike]:
        return [place for one in stores for place in self._places.get(one, (one,))]

    def _opened(self, stores: Sequence[StoreLike]) -> list[Store]:
        for place in self._placed(stores):
            if place not in self._stores:
                self._stores[place] = as_store(place)
        return [self._stores[place] for place in self._placed(stores)]

    @cached_property
    def _places(self) -> dict[StoreLike, tuple[StoreLike, ...]]:
        """Locations of the stores of each extraction that was carried out."""
        return {}

    @cached_property
    def _stores(self) -> dict[StoreLike, Store]:
        return {}


def require_finished(rows: Sequence[CellResult]) -> None:
    """Raise `TrainingError` for the first run that failed."""
    failed = [row for row in rows if row.state == "failed"]
    if failed:
        first = failed[0]
        raise TrainingError(
            f"{len(failed)} of {len(rows)} runs failed; {first.decoder_type} {first.layer} "
            f"{first.train_on} seed {first.seed}: {first.reason}"
        )
