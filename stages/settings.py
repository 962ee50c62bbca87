"""Settings of a study, read from YAML; an unknown key is refused, naming the nearest known one."""

import reprlib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    create_model,
)

from declip_pipeline import options as described
from declip_pipeline.errors import InputError, UnknownNameError
from stages.texts import KEYS
from stages.training_options import option_fields

PACKAGED = Path(__file__).parent / "configs"
IN_CHECKOUT = Path(__file__).parents[1] / "configs"

NO_STUDIES = ("demo.yaml", "grid.yaml", "slurm.yaml")
"""Configs of other commands than `reproduce`."""


def _no_truth(value: Any) -> Any:
    """Refuse true and false where a number is expected: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth)]
_NUMBERS: dict[Any, Any] = {int: Whole, float: Real}


class Settings(BaseModel):
    """A study's settings: strict, and unchangeable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DemoBackboneSettings(Settings):
    """A backbone of the demo, and options of `train` for each training that is compared on it."""

    arch: str
    train: list[dict[str, Any]] = Field(min_length=1)


class DemoSettings(Settings):
    """The demo: how large its set is, which backbones, and what is trained on them.

    `train` are options of `declip-pipe train` for all trainings.
    """

    train_count: Whole = Field(ge=1)
    valid_count: Whole = Field(ge=1)
    test_count: Whole = Field(ge=1)
    ablation_generator: str
    train: dict[str, Any]
    backbones: list[DemoBackboneSettings] = Field(min_length=1)


# What a training gives, or whether it can be, may depend on these.
ON_ANY_MACHINE = ("micro_batch_size", "precision", "compile")

SettingsType = TypeVar("SettingsType", bound=Settings)


def packaged_config(name: str) -> Path:
    """Return the path of a config that ships with the program, in the wheel or the checkout."""
    folder = PACKAGED if PACKAGED.is_dir() else IN_CHECKOUT
    return folder / name


def packaged_studies() -> dict[str, Path]:
    """Return the studies that ship with the program, by their paths in a checkout."""
    folder = packaged_config(".")
    return {
        f"configs/{file.relative_to(folder)}": file
        for file in sorted(folder.rglob("*.yaml"))
        if file.name not in NO_STUDIES
    }


def read_settings(path: Path, kind: type[SettingsType]) -> SettingsType:
    """Read settings from a YAML file. Raises `InputError` naming the key that is wrong."""
    return settings_of(path, yaml_of(path), kind)


# A few aliases of aliases in a YAML file are a list of a billion items.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxlist = _SHOWN.maxdict = 10
_SHOWN.maxstring = _SHOWN.maxother = 200


def yaml_of(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file. Raises `InputError`."""
    try:
        if (
            path.exists() and not path.is_file()
        ):  # a named pipe would be waited for, a device endless
            raise InputError(f"config {path} is no regular file; expected a YAML file")
        values: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} cannot be read; expected a YAML file") from error
    except RecursionError as error:
        raise InputError(f"config {path} is nested too deeply; expected keys and values") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date of month 13
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path} holds no settings; expected keys and values")
    return values


def settings_of(path: Path, values: dict[str, Any], kind: type[SettingsType]) -> SettingsType:
    """Settings out of the values of a file. Raises `InputError` naming the key that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first, *_ = errors = error.errors(include_url=False)
        unknown = next((one for one in errors if one["type"] == "extra_forbidden"), None)
        if unknown is not None:
            *above, key = unknown["loc"]
            known = _fields_at(kind, above)
            if known:
                raise UnknownNameError(f"key in {path}", str(key), known) from error
        own = next((one for one in errors if one["type"] == "value_error"), None)
        if own is not None:  # our own words say what was found and expected
            place = _value_at(values, own)[0]
            raise InputError(f"{_place(path, place)}: {own['ctx']['error']}") from error
        # A value that may be one thing or another has an error for each.
        where, found = _value_at(values, first)
        wrong = [one["msg"] for one in errors if _value_at(values, one)[0] == where]
        expected = ", or: ".join(dict.fromkeys(wrong))
        raise InputError(
            f"{_place(path, where)}: found {_SHOWN.repr(found)}; {expected}"
        ) from error


def grid_settings() -> dict[str, described.Field]:
    """Return the keys of a grid's file, which are the fields of the library's recipe classes."""
    return {
        KEYS.get(name, name): field
        for name, field in option_fields().items()
        if field.option.group not in ("machine", "output") or name in ON_ANY_MACHINE
    }


def grid_defaults(path: Path) -> dict[str, Any]:
    """Read the file of a grid: options of `train`, of which those that span it are lists.

    Returns what was set by field, in the words of a command line. Raises `InputError`.
    """
    keys = grid_settings()
    kinds: dict[str, Any] = {
        key: (_kind_in_file(field) | None, Field(None, ge=_least_in_file(field)))
        for key, field in keys.items()
    }
    settings = read_settings(path, create_model("GridSettings", __base__=Settings, **kinds))
    found = settings.model_dump(exclude_none=True)
    return {keys[key].name: typed(value, keys[key]) for key, value in found.items()}


def _kind_in_file(field: described.Field) -> Any:
    """Return the type of a field in a settings file."""
    kind, several = field.kind, field.option.several
    if kind == tuple[tuple[str, str], ...]:
        return list[str]
    if get_origin(kind) is tuple:
        item = _NUMBERS.get(get_args(kind)[0], get_args(kind)[0])
        return list[item | list[item]] if several else list[item]  # type: ignore[valid-type]
    if not several:
        if get_origin(kind) in (Union, UnionType):
            return Union[tuple(_NUMBERS.get(one, one) for one in get_args(kind))]  # noqa: UP007
        return _NUMBERS.get(kind, kind)
    one: Any = {int: StrictInt, str: StrictInt | str, float: Real}.get(kind, kind)
    return one | list[one]


def _least_in_file(field: described.Field) -> float | None:
    return field.option.least if field.kind in (int, float) and not field.option.several else None


def typed(value: Any, field: described.Field) -> Any:
    """Return a value of a settings file as a command line has it."""
    if not isinstance(value, list):
        return str(value) if field.option.several else value
    if field.kind == tuple[tuple[str, str], ...]:
        return value
    if get_origin(field.kind) is tuple and field.option.several:
        return [joined(names) for names in value]
    return joined(value)


def joined(value: Any) -> str:
    """Return a value as the text of an option: items of a list are separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _place(path: Path, where: str) -> str:
    """Return a file, and a place in it unless what is wrong is the whole."""
    return f"config {path}: {where}" if where else f"config {path}"


def _value_at(values: Any, error: Any) -> tuple[str, Any]:
    """Name and value of the place that an error is about."""
    names = []
    for part in error["loc"]:
        is_there = part in values if isinstance(values, dict) else isinstance(part, int)
        if is_there:
            names.append(str(part))
            values = values[part]
        elif error["type"] == "missing":
            return ".".join([*names, str(part)]), None
        else:
            break  # the name of a type that the value could have had
    return ".".join(names), values


def _fields_at(kind: type[BaseModel], path: list[Any]) -> list[str]:
    """Return the keys that settings allow at a place; none where any key is allowed."""
    for part in path:
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(part)
        inner = [
            each
            for each in _types_in(field.annotation if field else None)
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
        if len(inner) != 1:
            return []
        kind = inner[0]
    return list(kind.model_fields)


def _types_in(annotation: Any) -> list[Any]:
    """Return a type and all types inside it."""
    return [annotation, *(one for part in get_args(annotation) for one in _types_in(part))]
