"""Settings of a study that `declip-pipe reproduce` carries out."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field

from declip_pipeline.errors import InputError, UnknownNameError
from stages.settings import Settings, settings_of, yaml_of

Domain = Annotated[str, Field(pattern="^(ID|OOD)$")]

Options = dict[str, Any]
"""Options of a command by name, as in `{layers: [layer20], batch_size: 64}`."""


class ExtractionStep(Settings):
    """One `declip-pipe extract`: the dataset by name, and its options beside those of all."""

    data: str
    options: Options = Field(default_factory=dict)


class TrainingStep(Settings):
    """One `declip-pipe train`: the stores that it takes, by name, and its options."""

    stores: list[str] = Field(min_length=1)
    options: Options


class TestStep(Settings):
    """What all runs are evaluated on.

    `beside` are stores of the same images for other backbones, `aliases` two names of one generator
    in different datasets ("ns=navier-stokes").
    """

    stores: list[str] = Field(min_length=1)
    beside: list[str] = Field(default_factory=list)
    split: str = "test"
    generators: list[str] | None = None
    aliases: list[str] = Field(default_factory=list)


def _table_field(name: str) -> str:
    from declip_pipeline.evaluation.table import TABLE_FIELDS

    if name not in TABLE_FIELDS:
        raise ValueError(f"found {name!r}; expected one of {', '.join(TABLE_FIELDS)}")
    return name


TableField = Annotated[str, AfterValidator(_table_field)]
TableFields = TableField | list[TableField]


class TableSettings(Settings):
    """What the rows and columns of the table are, and which metric its means are.

    Rows and columns are fields of runs and of what they were tested on, one or several. Columns are
    by default what runs learned, of rows that are generators, otherwise the means in domain and out
    of domain. `over` are fields to average besides the seed. `detection_ap` and `detection_auc` are
    of whole images, by their mean sigmoid.
    """

    rows: TableFields
    columns: TableFields | None = None
    over: list[TableField] | None = None
    metric: Literal["iou", "f1_best", "f1_fixed", "ap", "detection_ap", "detection_auc"] = "iou"

    @property
    def row_fields(self) -> list[str]:
        """Fields of the rows."""
        return [self.rows] if isinstance(self.rows, str) else self.rows

    @property
    def column_fields(self) -> list[str]:
        """Fields of the columns."""
        if self.columns is None:
            return ["train_on" if self.row_fields == ["generator"] else "domain"]
        return [self.columns] if isinstance(self.columns, str) else self.columns

    @property
    def is_matrix(self) -> bool:
        """Whether it is a train x test matrix."""
        return (self.row_fields, self.column_fields) == (["generator"], ["train_on"])


class PublishedSettings(Settings):
    """Published figures, by row and column; of others only the means in and out of domain."""

    source: str
    figures: dict[str, dict[str, float]] = Field(default_factory=dict)
    means: dict[Domain, float] = Field(default_factory=dict)
    others: dict[str, dict[Domain, float]] = Field(default_factory=dict)


class StudySettings(Settings):
    """A table of a paper: what to extract, train and evaluate, and what was published.

    `extract` are options of `declip-pipe extract` for all of `stores`, which are by name.
    """

    title: str
    extract: Options
    stores: dict[str, ExtractionStep] = Field(min_length=1)
    train: list[TrainingStep] = Field(min_length=1)
    test: TestStep
    table: TableSettings
    published: PublishedSettings | None = None

    @property
    def datasets(self) -> list[str]:
        """The datasets that have to be there."""
        return list(dict.fromkeys(step.data for step in self.stores.values()))


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
        for options in _changed(values, section, change):
            options[name] = value
    study = settings_of(path, values, StudySettings)
    named = [*study.test.stores, *study.test.beside]
    for name in [*named, *(name for step in study.train for name in step.stores)]:
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
