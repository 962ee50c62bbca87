"""Settings of a study that `declip-pipe reproduce` carries out."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from declip_pipeline.errors import InputError, UnknownNameError
from stages.settings import Settings, settings_of, yaml_of

Options = dict[str, Any]
"""Options of a command by name, as in `{layers: [layer20], batch_size: 64}`."""


class TrainingStep(Settings):
    """One `declip-pipe train`: the datasets whose stores it takes, and its options."""

    data: list[str] = Field(min_length=1)
    options: Options


class TestStep(Settings):
    """What all runs are judged on."""

    data: list[str] = Field(min_length=1)
    split: str = "test"
    generators: list[str] | None = None


class TableSettings(Settings):
    """What the rows of the table are, and which metric its figures are.

    Of rows that are generators, columns are what runs learned, otherwise ID and OOD.
    """

    rows: Literal["generator", "layer", "decoder"]
    metric: Literal["iou", "f1_best", "f1_fixed", "ap"] = "iou"


class PublishedSettings(Settings):
    """Published figures, by row and column; of others only the means in and out of domain."""

    source: str
    figures: dict[str, dict[str, float]] = Field(default_factory=dict)
    means: dict[Literal["ID", "OOD"], float] = Field(default_factory=dict)
    others: dict[str, dict[Literal["ID", "OOD"], float]] = Field(default_factory=dict)


class StudySettings(Settings):
    """A table of a paper: what to extract, train and judge, and what was published.

    `data` are the datasets by name, each with the options of `extract` that are its own.
    """

    title: str
    data: dict[str, Options] = Field(min_length=1)
    extract: Options
    train: list[TrainingStep] = Field(min_length=1)
    test: TestStep
    table: TableSettings
    published: PublishedSettings | None = None


def read_study(path: Path, changes: list[str]) -> StudySettings:
    """Read a study, with values changed: "extract.dtype=int8", "train.epochs=20" (of all steps).

    Raises `InputError` naming the key that is wrong.
    """
    values = yaml_of(path)
    for change in changes:
        key, equals, text = change.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise InputError(f"--set {change!r}; expected SECTION.KEY=VALUE, as in train.epochs=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {change!r}: {text!r} is not a value of YAML") from error
        for options in _changed(values, section, change):
            options[name] = value
    study = settings_of(path, values, StudySettings)
    for name in [*study.test.data, *(name for step in study.train for name in step.data)]:
        if name not in study.data:
            raise UnknownNameError(f"dataset in {path}", name, study.data)
    return study


def _changed(values: Any, section: str, change: str) -> list[Options]:
    """The options that a change is for."""
    if section == "train":
        steps = values.get("train") or []
        found = [step.get("options") for step in steps if isinstance(step, dict)]
    elif section in ("extract", "test", "table"):
        found = [values.get(section)]
    elif section in (values.get("data") or {}):
        found = [values["data"][section]]
    else:
        known = ("extract", "train", "test", "table", *(values.get("data") or {}))
        raise UnknownNameError(f"section of --set {change!r}", section, known)
    return [options for options in found if isinstance(options, dict)]
