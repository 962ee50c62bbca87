"""Settings of a study that `declip-pipe reproduce` carries out."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from declip_pipeline.datasets.demo.build import DemoSize
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.table import TABLE_FIELDS
from declip_pipeline.study.callbacks import Callbacks
from declip_pipeline.study.published import Published
from declip_pipeline.study.steps import EnsembleStep, EvaluationStep, TableForm
from declip_pipeline.study.study import Study
from declip_pipeline.study.tables import DETECTION, StudyMetric
from stages.settings import Settings, Whole, settings_of, yaml_of
from stages.study_options import read_extraction, read_training

Domain = Annotated[str, Field(pattern="^(ID|OOD)$")]

Options = dict[str, Any]
"""Options of a command by name, as in `{layers: [layer20], batch_size: 64}`."""


class ExtractionSettings(Settings):
    """One `declip-pipe extract`: the dataset by name, and its options beside those of all."""

    data: str
    options: Options = Field(default_factory=dict)


class TestSettings(Settings):
    """Data that runs are evaluated on, see `EvaluationStep`."""

    stores: list[str] = Field(min_length=1)
    beside: list[str] = Field(default_factory=list)
    split: str = "test"
    generators: list[str] | None = None
    aliases: list[str] = Field(default_factory=list)

    def of(self, stores: Collection[str]) -> Self:
        """Return what is left of it with some stores alone."""
        kept = {
            name: [one for one in getattr(self, name) if one in stores]
            for name in ("stores", "beside")
        }
        return self.model_copy(update=kept)

    def step(self) -> EvaluationStep:
        """Return what the study takes."""
        return EvaluationStep(
            tuple(self.stores),
            split=self.split,
            generators=None if self.generators is None else tuple(self.generators),
            beside=tuple(self.beside),
            aliases=tuple(self.aliases),
        )


class TrainingSettings(Settings):
    """One `declip-pipe train`: the stores that it takes, by name, and its options.

    `name` is that of its rows in a table of methods, `test` what its runs are evaluated on
    instead of what all runs are.
    """

    stores: list[str] = Field(min_length=1)
    options: Options
    name: str = ""
    test: TestSettings | None = None

    def beside(self) -> list[str]:
        """Return the names of the stores in the option `beside`, "STORE:LAYER" each."""
        given = self.options.get("beside") or []
        listed = given if isinstance(given, list) else str(given).split(",")
        return [str(one).rpartition(":")[0] for one in listed]


class DemoDataSettings(Settings):
    """A demo set that the command builds, see `build_demo_set`."""

    size: DemoSize = "small"
    seed: Whole = Field(default=0, ge=0)
    train_count: Whole | None = Field(default=None, ge=1)
    valid_count: Whole | None = Field(default=None, ge=1)
    test_count: Whole | None = Field(default=None, ge=1)


class EnsembleSettings(Settings):
    """Ensembles of methods by their names, see `EnsembleStep`."""

    name: str = Field(min_length=1)
    of: list[str] = Field(min_length=1)
    over_seeds: bool = False

    @model_validator(mode="after")
    def _has_several(self) -> Self:
        if len(self.of) < 2 and not self.over_seeds:
            raise ValueError("found one method; expected several, or `over_seeds: true`")
        return self


class MethodsSettings(Settings):
    """A table of methods: the names of those that the others are compared with, and ensembles."""

    baselines: list[str] = Field(default_factory=list)
    ensembles: list[EnsembleSettings] = Field(default_factory=list)

    def without(self, trainings: Collection[str]) -> Self:
        """Return what is left of it without the methods of some trainings."""

        def is_left(method: str) -> bool:
            return method.rpartition(", ")[0] not in trainings

        kept = [one for one in self.ensembles if all(map(is_left, one.of))]
        dropped = {one.name for one in self.ensembles if one not in kept}
        baselines = [one for one in self.baselines if is_left(one) and one not in dropped]
        return self.model_copy(update={"ensembles": kept, "baselines": baselines})


def _table_field(name: str) -> str:
    if name not in TABLE_FIELDS:
        raise ValueError(f"found {name!r}; expected one of {', '.join(TABLE_FIELDS)}")
    return name


TableField = Annotated[str, AfterValidator(_table_field)]
TableFields = TableField | list[TableField]


def _of_one_task(metrics: list[StudyMetric]) -> list[StudyMetric]:
    of_images = [name for name in metrics if name.startswith(DETECTION)]
    if len(set(metrics)) < len(metrics) or len(of_images) not in (0, len(metrics)):
        raise ValueError(
            f"found {', '.join(metrics)}; expected each metric once, and {DETECTION}... apart from "
            "those of localization: no run is evaluated by both"
        )
    return metrics


_OF_ONE_TASK = AfterValidator(_of_one_task)


class TableSettings(Settings):
    """Rows, columns and metric of the table, see `TableForm`; rows and columns are lists or one."""

    rows: TableFields
    columns: TableFields = Field(default_factory=list)
    over: list[TableField] | None = None
    metric: StudyMetric | Annotated[list[StudyMetric], Field(min_length=1), _OF_ONE_TASK] = "iou"
    mean: bool = False

    def forms(self) -> list[TableForm]:
        """Return what the study takes, a form for each metric."""
        return [
            TableForm(
                rows=_listed(self.rows),
                columns=_listed(self.columns),
                over=None if self.over is None else tuple(self.over),
                metric=metric,
                with_mean=self.mean,
            )
            for metric in (self.metric if isinstance(self.metric, list) else [self.metric])
        ]


def _listed(names: str | list[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


class PublishedSettings(Settings):
    """Published figures of a metric, by default the table's first, see `Published`."""

    source: str
    metric: StudyMetric | None = None
    figures: dict[str, dict[str, float]] = Field(default_factory=dict)
    means: dict[Domain, float] = Field(default_factory=dict)
    others: dict[str, dict[str, float]] = Field(default_factory=dict)

    def published(self) -> Published:
        """Return what the report takes."""
        return Published(self.source, self.figures, self.means, self.others)


class StudySettings(Settings):
    """A table of a paper: what to extract, train and evaluate, and what was published.

    `extract` are options of `declip-pipe extract` for all of `stores`, which are by name; `demo`
    are datasets that are built. There is a `table`, or a table of `methods`.
    """

    title: str
    extract: Options
    stores: dict[str, ExtractionSettings] = Field(min_length=1)
    train: list[TrainingSettings] = Field(min_length=1)
    test: TestSettings
    table: TableSettings | None = None
    methods: MethodsSettings | None = None
    published: PublishedSettings | list[PublishedSettings] = Field(default_factory=list)
    demo: dict[str, DemoDataSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if (self.table is None) == (self.methods is None):
            both = "both" if self.table else "neither"
            raise ValueError(f"found {both} of table and methods; expected one of them")
        if self.methods and self.published:
            raise ValueError("found published figures and methods; expected them with a table")
        return self

    def published_of(self, metric: str) -> Published | None:
        """Return the figures that were published for a table of a metric; None without any."""
        if self.table is None:
            return None
        some = self.published if isinstance(self.published, list) else [self.published]
        first = self.table.forms()[0].metric
        return next((one.published() for one in some if (one.metric or first) == metric), None)

    def without(self, datasets: Collection[str]) -> "StudySettings":
        """Return the study without the stores of some datasets.

        A training that takes features of theirs beside its own goes with them. Raises `InputError`
        where nothing is left to learn from or to test on.
        """
        stores = {name: step for name, step in self.stores.items() if step.data not in datasets}
        train = []
        for step in self.train:
            kept = [name for name in step.stores if name in stores]
            test = step.test and step.test.of(stores)
            is_whole = all(name in stores for name in step.beside())
            if kept and is_whole and (test is None or test.stores):
                train.append(step.model_copy(update={"stores": kept, "test": test}))
        test = self.test.of(stores)
        if not train or not test.stores:
            what = "to learn from" if not train else "to test on"
            raise InputError(f"the study has nothing left {what}")
        gone = {step.name for step in self.train} - {step.name for step in train}
        methods = self.methods and self.methods.without(gone)
        left = {"stores": stores, "train": train, "test": test, "methods": methods}
        return self.model_copy(update=left)

    @property
    def datasets(self) -> list[str]:
        """The datasets that have to be there, or can be built."""
        return list(dict.fromkeys(step.data for step in self.stores.values()))

    def study(
        self,
        path: Path,
        data: Mapping[str, Path],
        *,
        extract: Mapping[str, Any],
        train: Mapping[str, Any],
        device: str,
        callbacks: Callbacks,
    ) -> Study:
        """Return the study.

        Args:
            path: The file of the settings, for errors.
            data: Where each of `datasets` lies.
            extract: Options of every extraction that win, as `read_extraction` takes them.
            train: Options of every training that win, as `read_training` takes them.
            device: As in `Study`.
            callbacks: As in `Study`.

        Raises:
            InputError: For options that a step does not have or take, naming their place.
        """
        return Study(
            extractions={
                name: read_extraction(
                    data[step.data],
                    {**self.extract, **step.options},
                    f"{path}, extract and stores.{name}",
                    **extract,
                )
                for name, step in self.stores.items()
            },
            trainings=tuple(
                replace(
                    read_training(step.stores, step.options, f"{path}, train[{number}]", **train),
                    name=step.name,
                    test=None if step.test is None else step.test.step(),
                )
                for number, step in enumerate(self.train)
            ),
            test=self.test.step(),
            table=None if self.table is None else self.table.forms()[0],
            baselines=() if self.methods is None else tuple(self.methods.baselines),
            ensembles=tuple(
                EnsembleStep(one.name, tuple(one.of), one.over_seeds)
                for one in (self.methods.ensembles if self.methods else ())
            ),
            device=device,
            callbacks=callbacks,
        )


def read_study(path: Path, changes: list[str]) -> StudySettings:
    """Read a study, with values changed.

    A change is "title=..."; "extract.dtype=int8", of an option for all stores; "train.epochs=20",
    of all trainings; or names a store, "dolos.generators=[ldm, lama]".
    Raises `InputError` naming the key that is wrong.
    """
    values = yaml_of(path)
    for change in changes:
        key, equals, text = change.partition("=")
        section, dot, name = key.partition(".")
        if key == "title" and equals:
            values["title"] = text
            continue
        if not (equals and dot and name):
            raise InputError(f"--set {change!r}; expected SECTION.KEY=VALUE, as in train.epochs=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {change!r}: {text!r} is not a value of YAML") from error
        found = _changed(values, section, change)
        if not found:
            raise InputError(f"--set {change!r}: {path} has no {section}")
        for options in found:
            options[name] = value
    study = settings_of(path, values, StudySettings)
    tests = [study.test, *(step.test for step in study.train if step.test)]
    named = [name for test in tests for name in (*test.stores, *test.beside)]
    learned = [name for step in study.train for name in (*step.stores, *step.beside())]
    for name in [*named, *learned]:
        if name not in study.stores:
            raise UnknownNameError(f"store in {path}", name, study.stores)
    return study


def _changed(values: Any, section: str, change: str) -> list[Options]:
    """The options that a change is for."""
    stores = values.get("stores")
    stores = stores if isinstance(stores, dict) else {}
    steps = values.get("train") if section == "train" else [stores.get(section)]
    found = [
        step.setdefault("options", {})
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, dict)
    ]
    if section in ("extract", "test", "table"):
        found = [values.get(section)]
    elif section != "train" and section not in stores:
        known = ("extract", "train", "test", "table", *stores)
        raise UnknownNameError(f"section of --set {change!r}", section, known)
    return [options for options in found if isinstance(options, dict)]
