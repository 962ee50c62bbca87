"""Options of the commands that train, made from the fields of the library's recipe classes.

A field with an `Option` is an option of `train` and `ablate` and a key of their settings files at
once; this module adds only the names that differ from the field's.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from declip_pipeline.errors import InputError
from declip_pipeline.options import Field, Option
from declip_pipeline.sweeps.grid_job import training_fields
from declip_pipeline.training.recipes import CHOSEN
from stages.options import DASK_HELP, DATA, DECODER, MACHINE, OUTPUT, TRAINING, comma_separated
from stages.texts import flag_of, flags_of, spelled

# The panels of the groups that the library's fields are of, in their order.
PANELS = {
    "main": None,
    "data": DATA,
    "decoder": DECODER,
    "training": TRAINING,
    "machine": MACHINE,
    "output": OUTPUT,
}

DETECTION = Field(
    "detection",
    bool,
    False,
    Option(
        "Learn which images are fake, from labels of fake and real ones, not from masks.", "data"
    ),
)
"""Option of the command line in place of a pooling, which makes a recipe one of detection."""

DaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLUSTER",
        rich_help_panel=MACHINE,
        help=f"Train in worker processes, a run at a time in each: {DASK_HELP} All must see the "
        "stores and RUNS at the same path.",
    ),
]
RunsOption = Annotated[
    Path,
    typer.Option(
        "-o",
        "--runs",
        metavar="RUNS",
        rich_help_panel=OUTPUT,
        help="Folder that holds the runs.",
    ),
]


def option_fields() -> dict[str, Field]:
    """Return the options of a training by their fields' names, by panel, required ones first."""
    found = [DETECTION, *training_fields().values()]
    groups = list(PANELS)
    found.sort(key=lambda field: (groups.index(field.option.group), field.default is not MISSING))
    return {field.name: field for field in found}


@dataclass(frozen=True)
class Form:
    """Conversion of a typed value to a field's: the type for Typer, and the function that reads."""

    typed: Any
    read: Callable[[Any], Any] = lambda value: value
    is_flag: bool = False


def form_of(field: Field) -> Form:
    """Return the form of a field, which depends on its type."""
    kind, several = field.kind, field.option.several
    if kind is bool:
        return Form(bool, is_flag=True)
    if kind == tuple[tuple[str, str], ...]:
        return Form(list[str] | None, lambda texts: _pairs(texts or [], field))
    if kind == tuple[str, ...] and several:
        return Form(list[str] | None, lambda texts: [_names(text) for text in texts or []])
    if several:
        return Form(str, lambda text: [_item(item, field) for item in comma_separated(text) or []])
    if get_origin(kind) is tuple:
        return Form(str | None, lambda text: _numbers(text, field))
    return Form(kind if field.default is not None else kind | None)


def grid_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `with_training_options` gives a command as options of `GridTraining`.

    Raises `InputError` for a pooling of localization.
    """
    options = dict(asked)
    pooling, is_detection = options.get("pooling"), options.pop("detection", False)
    if pooling is not None and not is_detection:
        raise InputError(
            f"--pooling {pooling} is for detection, which --detection asks for; leave one out or "
            "add the other"
        )
    return {**options, "pooling": (pooling or "mean") if is_detection else None}


def with_training_options(
    *leave_out: str, **changes: Mapping[str, Any]
) -> Callable[[Callable[..., Any]], Any]:
    """Give a command the options of a training, which it gets as a mapping, `asked`.

    The options stand in place of the command's parameter `asked`. `leave_out` names fields that it
    has no option for; `changes` by field are another `default` or `help`, or `one_because`, the
    reason why the command takes one value where a grid takes several.

    What the command gets is what the fields take, of those of a grid a list.
    """
    fields = {name: field for name, field in option_fields().items() if name not in leave_out}
    options = [_parameter(field, **changes.get(name, {})) for name, field in fields.items()]

    def decorate(command: Callable[..., Any]) -> Any:
        signature = inspect.signature(command)
        own = list(signature.parameters.values())
        place = next(number for number, one in enumerate(own) if one.name == "asked")
        parameters = [*own[:place], *options, *own[place + 1 :]]

        @wraps(command)
        def called(**values: Any) -> Any:
            asked = {}
            for name, field in fields.items():
                typed, reason = values.pop(name), changes.get(name, {}).get("one_because")
                if typed is None and name in CHOSEN:
                    continue  # left to the recipe
                asked[name] = form_of(field).read(typed)
                if reason and len(asked[name]) > 1:
                    raise InputError(f"{flag_of(name)} {typed!r}; expected one, {reason}")
            return command(asked=asked, **values)

        called.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        )
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate


def _parameter(field: Field, default: Any = MISSING, **others: Any) -> inspect.Parameter:
    option, form = field.option, form_of(field)
    default = field.default if default is MISSING else default
    text = others.get("help", option.help)
    kind = form.typed
    if field.name in CHOSEN:
        # What is not given is left to the recipe; the fields' own values are the paper's.
        shown = f"{default:g}" if isinstance(default, float) else default
        text += " Default: the recipe's" + ("." if default is None else f", of paper {shown}.")
        default, kind = None, kind | None
    if form.typed is str and isinstance(default, int | float):
        default = f"{default:g}"
    elif default == ():
        default = None
    info = typer.Option(
        *flags_of(field.name),
        help=spelled(text),
        rich_help_panel=PANELS[option.group],
        metavar=option.form,
        min=option.least if field.kind in (int, float) and not option.several else None,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, info],
    )


def _item(text: str, field: Field) -> Any:
    """Read an item of an option that takes several texts or numbers. Raises `InputError`."""
    kind, least = field.kind, field.option.least
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not (-math.inf if least is None else least) <= value < math.inf:
        expected = "a whole number" if kind is int else "a number"
        expected += "" if least is None else f" of at least {least:g}"
        raise InputError(f"{flag_of(field.name)} {text!r}; expected {expected}")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(comma_separated(text) or [])


def _numbers(text: str | None, field: Field) -> tuple[int, ...] | None:
    items = comma_separated(text, repeats=True)
    if items is None:
        return None
    if not all(item.isdecimal() and len(item) < 10 for item in items):
        raise InputError(f"{flag_of(field.name)} {text!r}; expected {field.option.expected}")
    return tuple(int(item) for item in items)


def _pairs(texts: list[str], field: Field) -> tuple[tuple[str, str], ...]:
    pairs = [text.rpartition(":") for text in texts]
    for (store, _, layer), text in zip(pairs, texts, strict=True):
        if not store or not layer or "/" in layer:
            raise InputError(f"{flag_of(field.name)} {text!r}; expected {field.option.expected}")
    return tuple((store, layer) for store, _, layer in pairs)
