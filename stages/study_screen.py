"""A study on the screen: its progress, and the command that each of its steps is."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from declip_pipeline.study.callbacks import Callbacks
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.steps import TrainingStep
from declip_pipeline.training.recipes import CHOSEN
from stages.grid_screen import live_grid
from stages.screen import progress, remark, result
from stages.texts import flag_of
from stages.training_options import option_fields

callbacks = Callbacks(notice=remark, made=result, progress=progress, rows=live_grid)
"""Show what a step does on the screen; locations go to stdout."""


def command_of(
    step: ExtractionStep | TrainingStep,
    places: Callable[[Sequence[str]], list[str]] = list,
) -> str:
    """Return the command that carries out a step, as typed in a shell.

    Options that have their defaults are left out.

    Args:
        step: The step.
        places: Returns the locations of a training's stores.
    """
    if isinstance(step, ExtractionStep):
        typed = ["extract", str(step.data), *_extraction_flags(step)]
    else:
        beside = [
            (place, layer)
            for store, layer in step.options.get("beside", ())
            for place in places([str(store)])
        ]
        options = {**step.options, **({"beside": beside} if beside else {})}
        step = replace(step, options=options)
        typed = ["train", *places([str(store) for store in step.stores]), *_training_flags(step)]
    return shlex.join(["declip-pipe", *typed])


def _extraction_flags(step: ExtractionStep) -> Iterator[str]:
    for field in fields(step):
        value = getattr(step, field.name)
        if field.name in ("data", "backbone") or value == field.default:
            continue
        if field.name == "fake_is_white":
            yield from ("--polarity", "white-is-fake" if value else "black-is-fake")
        elif field.name == "columns":
            yield from ("--columns", ",".join(f"{what}={name}" for what, name in value.items()))
        elif field.name == "weights":
            yield from (part for file in value for part in ("--weights", file))
        else:
            yield from _flag(field.name, value)


def _training_flags(step: TrainingStep) -> Iterator[str]:
    known = option_fields()
    for name, value in step.options.items():
        default = known[name].default
        is_default = value == ([default] if known[name].option.several else default)
        # What the recipe would choose is said: the default is the paper's, not what is chosen.
        if is_default and name not in CHOSEN:
            continue
        if name == "pooling":
            yield "--detection"
            yield from [] if value == "mean" else ["--pooling", value]
        elif name == "train_on":
            yield from (part for some in value for part in _flag(name, some))
        elif name == "beside":
            yield from (part for pair in value for part in _flag(name, ":".join(pair)))
        else:
            yield from _flag(name, value)
    for name in ("dask", "scheduler"):
        if getattr(step, name) is not None:
            yield from _flag(name, getattr(step, name))


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag_of(name)] if value else []
    if isinstance(value, list | tuple):
        return [flag_of(name), ",".join(map(str, value))]
    return [flag_of(name), str(value)]
