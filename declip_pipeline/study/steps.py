"""Steps of a study: trainings, what their runs are evaluated on, ensembles, and a table's form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import parse_aliases
from declip_pipeline.evaluation.scores import Task
from declip_pipeline.store.reader import StoreLike
from declip_pipeline.study.tables import DETECTION, MATRIX, StudyMetric, StudyTable, study_tables
from declip_pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingStep:
    """Trainings on the same stores: one, or a grid of them.

    Attributes:
        stores: Names of the study's extractions, or stores, or their locations.
        options: See `GridTraining`; stores of `beside` are named as in `stores`.
        dask: See `GridTraining`.
        scheduler: See `GridTraining`.
        name: Name of its rows in a table of methods, before that of the decoder.
        test: What its runs are evaluated on; None for what all of the study are.
    """

    stores: tuple[StoreLike, ...]
    options: Mapping[str, Any]
    dask: str | None = None
    scheduler: str | None = None
    name: str = ""
    test: "EvaluationStep | None" = None

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that are trained."""
        given = self.options.get("decoder_type", Recipe().decoder_type)
        return [given] if isinstance(given, str) else [*given]

    @property
    def seeds(self) -> list[int]:
        """Seeds of each training."""
        given = self.options.get("seed", Recipe().seed)
        return [given] if isinstance(given, int) else [*given]

    def method(self, decoder: str) -> str:
        """Return the name of a decoder's row in a table of methods."""
        return ", ".join(filter(None, [self.name, decoder]))

    @property
    def stores_beside(self) -> tuple[StoreLike, ...]:
        """Names or locations of the stores beside those that are fed."""
        return tuple(store for store, _ in self.options.get("beside", ()))


@dataclass(frozen=True)
class EvaluationStep:
    """Evaluation of every run of a study, or of a training.

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
class EnsembleStep:
    """Ensembles of methods: for each training set and seed, the mean of the logits of their runs.

    They are evaluated on what the first method is, with the stores of the others beside.

    Attributes:
        name: Name of its row in the table of methods.
        methods: Names of methods of trainings, "NAME, DECODER" each.
        over_seeds: Take the runs of all seeds together: one ensemble for each training set. The
            methods have the same seeds, several; a training set without a run of each has none.
    """

    name: str
    methods: tuple[str, ...]
    over_seeds: bool = False


@dataclass(frozen=True)
class TableForm:
    """Form of a study's tables.

    Attributes:
        rows: Fields of the rows, see `two_way_tables`.
        columns: Fields of the columns. By default what runs learned, of rows that are generators,
            otherwise in domain and out of domain.
        over: Fields that are averaged, see `two_way_tables`.
        metric: What the means are of; "detection_ap" and "detection_auc" are of whole images.
        with_mean: Add a column of means over each row, see `two_way_tables`; not for a matrix.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    over: tuple[str, ...] | None = None
    metric: StudyMetric = "iou"
    with_mean: bool = False

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
            with_mean=self.with_mean,
        )


BY_GENERATOR = TableForm(rows=("generator",))
"""Rows are the generators that runs are tested on, columns what they learned."""
