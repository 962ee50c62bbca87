"""Flags of the library's parameters, and messages of the library with flags in them.

The library's messages name a parameter as Python has it, in backquotes: `batch_size`,
`overwrite=True`. On the screen these are flags.
"""

import re
from ast import literal_eval
from functools import cache
from typing import Any

from declip_pipeline.sweeps.grid_job import training_fields

# Flags of a parameter, the first of which messages name, where it is not --name-of-parameter.
FLAGS = {
    "fake_is_white": ("--polarity",),
    "layer": ("--feature-layer", "--layers"),
    "decoder_type": ("--decoder-type", "--decoders"),
    "decoder": ("--decoder-type",),
    "seed": ("--seed", "--seeds"),
    "learning_rate": ("--learning-rate", "--lr"),
    "uncached": ("--no-cache",),
    "runs": ("-o", "--runs"),
    "backbone": ("--arch",),
    "root": ("--cache",),
    "data_root": ("--data",),
    "splits": ("--split",),
    "out": ("-o", "--out"),
    "images": ("-i", "--images"),
    "recipe_name": ("--recipe",),
    "changes": ("--set",),
    "everything": ("--all",),
    "delete_store": ("--all",),  # a function of the library, which `cache prune --all` calls
    "as_json": ("--json",),
    "aliases": ("--alias",),
    "evaluate_missing": ("--evaluate",),
}

# Parameters of no recipe whose flag is their name.
PLAIN = frozenset(
    """
    allow_unpaired arch assign_splits augment cache check_on checkpoint columns config cost
    counterparts dask data deep detection done dry_run dtype each feature_layer figure_format
    figures for_paper generators greedy host image_size keep layers layout log_file maps
    maps_are maps_key max_failures max_megabytes max_megapixels metrics min_region name on onnx
    overwrite paper_columns polarity port profile repair report resize_maps run save scheduler split
    threshold tiles title top_share views weights
    """.split()  # noqa: SIM905
)

# Values of a parameter whose flag takes others.
VALUES: dict[str, dict[Any, str]] = {
    "fake_is_white": {True: "white-is-fake", False: "black-is-fake"},
}

# Of a parameter's field of a recipe, its key in a settings file, where it is another.
KEYS = {"layer": "layers", "decoder_type": "decoders", "seed": "seeds", "recipe_name": "recipe"}

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_PARAMETER = re.compile(r"`([a-z_]+)(?:=([^`]+))?`")


def flags_of(name: str) -> tuple[str, ...]:
    """Return all flags of a parameter."""
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))


def flag_of(name: str) -> str:
    """Return the flag of a parameter that messages name."""
    return flags_of(name)[0]


def spelled(message: str) -> str:
    """Spell a message's parameters as flags: `polarity="black"` as --polarity black.

    What stands in backquotes and is no parameter (a command, a file) is left as it is.
    """
    return _PARAMETER.sub(_flag_and_value, message)


def printable(text: str) -> str:
    """Return a text with control characters, which a terminal would act on, as `\\x1b`.

    Names of files can hold them.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _flag_and_value(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name not in parameters():
        return found[0]
    if value is None:
        return flag_of(name)
    try:
        text = _typed(name, literal_eval(value))
    except (ValueError, SyntaxError):
        text = value  # a placeholder such as FILE
    return f"{flag_of(name)} {text}".rstrip()


def _typed(name: str, value: Any) -> str:
    if name in VALUES:
        return VALUES[name][value]
    if value is True:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={one}" for key, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@cache
def parameters() -> frozenset[str]:
    """Return every name that `spelled` takes for a parameter."""
    return PLAIN.union(FLAGS, training_fields())
