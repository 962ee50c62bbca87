"""Options of extractions and trainings in the file of a study, read as the commands read them.

Extractions have the options of `declip-pipe extract`, trainings the fields of the library's recipe
classes; a key is a flag without dashes. What is wrong is told with its place in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.steps import TrainingStep
from stages.extract import NOT_OF_A_STEP, extract, extraction_step
from stages.settings import joined, typed
from stages.texts import flags_of
from stages.training_options import form_of, grid_options, option_fields

T = TypeVar("T")


def read_extraction(
    data: Path, options: Mapping[str, Any], where: str, **others: Any
) -> ExtractionStep:
    """Return an extraction of a dataset.

    Args:
        data: The dataset.
        options: Options of the file.
        where: Place of the options in the file, for errors.
        others: Options as `extraction_step` takes them; they win.

    Raises:
        UnknownNameError: For a key that is no option.
        InputError: For a value that an option does not take, or an option that is missing.
    """
    known = _extraction_options()
    values = {}
    for key, value in options.items():
        name, kind, info = _known(key, known, where)
        if get_args(kind) and list[str] in get_args(kind):
            values[name] = [str(item) for item in (value if isinstance(value, list) else [value])]
        else:
            values[name] = _checked(value, kind, key, where, least=info.min)
    if "arch" not in values and "arch" not in others:
        raise InputError(f"{where}: Missing option '--arch'")
    return _placed(where, extraction_step, data, **{**values, **others})


def read_training(
    stores: Sequence[str],
    options: Mapping[str, Any],
    where: str,
    *,
    dask: str | None,
    scheduler: str | None,
    **others: Any,
) -> TrainingStep:
    """Return a training, one or a grid. Raises as `read_extraction` does.

    Args:
        stores: Names of the study's stores.
        options: Options of the file.
        where: Place of the options in the file, for errors.
        dask: As in `TrainingStep`.
        scheduler: As in `TrainingStep`.
        others: Values of fields; they win.
    """
    fields = option_fields()
    known = {
        flag.lstrip("-").replace("-", "_"): (name, field)
        for name, field in fields.items()
        for flag in flags_of(name)
        if flag.startswith("--")
    }
    values: dict[str, Any] = {}
    for key, value in options.items():
        name, field = _known(key, known, where)
        form = form_of(field)
        if not field.option.several and get_origin(field.kind) is not tuple:
            values[name] = _checked(value, field.kind, key, where, least=field.option.least)
        else:
            text = typed(value, field)
            if form.typed == list[str] | None and not isinstance(text, list):
                text = [str(text)]
            values[name] = _placed(where, form.read, text)
    values |= others
    for name, field in fields.items():
        if field.default is MISSING and name not in values:
            raise InputError(f"{where}: Missing option '{flags_of(name)[0]}'")
    return TrainingStep(
        tuple(stores), _placed(where, grid_options, values), dask=dask, scheduler=scheduler
    )


def _extraction_options() -> dict[str, tuple[str, Any, Any]]:
    """Return name, type and Typer's description of each option of `extract`, by its key."""
    hints = get_type_hints(extract, include_extras=True)
    found = {}
    for name in signature(extract).parameters:
        if name == "data" or name in NOT_OF_A_STEP:
            continue
        kind, info = get_args(hints[name])
        # Within Annotated, the first of the flags is where a default would be.
        flags = [text for text in (info.default, *(info.param_decls or ())) if text is not ...]
        flag = next((text for text in flags if text.startswith("--")), name)
        found[flag.lstrip("-").replace("-", "_")] = (name, kind, info)
    return found


def _known(key: str, known: Mapping[str, Any], where: str) -> Any:
    if key not in known:
        raise UnknownNameError(f"option in {where}", key, known)
    return known[key]


def _checked(value: Any, kind: Any, key: str, where: str, *, least: float | None) -> Any:
    """Return a value of an option that takes one. Raises `InputError`."""
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {key}: found {value!r}; expected true or false")
        return value
    if str in kinds:
        return joined(value)
    number: Any = Annotated[kind, Field(ge=least, allow_inf_nan=False)]
    number = kind if least is None else number
    try:
        if isinstance(value, bool):
            raise TypeError
        return TypeAdapter(number).validate_python(value)
    except (ValidationError, TypeError) as error:
        flag = f"--{key.replace('_', '-')}"
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no number"
        raise InputError(f"{where}: Invalid value for '{flag}': {value!r}: {told}") from error


def _placed(where: str, read: Callable[..., T], *values: Any, **options: Any) -> T:
    """Call a function whose `InputError` is told with its place in the file."""
    try:
        return read(*values, **options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
