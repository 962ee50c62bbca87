"""Checks of arguments: one line that says what was found and what was expected."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from declip_pipeline.errors import InputError


def require_path(value: Any, what: str, expected: str = "a path") -> None:
    """Raise `InputError` unless a value is a path; `what` is "a store", "a dataset"."""
    if not isinstance(value, str | Path):
        raise InputError(f"found {type(value).__name__} for {what}; expected {expected}")


def require_whole(name: str, value: Any, least: int) -> None:
    """Raise `InputError` unless a parameter is a whole number of at least `least`."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise InputError(f"`{name}` is {value!r}; expected a whole number of at least {least}")


def require_positive(name: str, value: Any) -> None:
    """Raise `InputError` unless a parameter is a number above 0; infinity is one."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or value <= 0:
        raise InputError(f"`{name}` is {value!r}; expected a number above 0")


def names_in(value: Any, what: str) -> tuple[str, ...]:
    """Return names that are given as one text or a sequence of texts.

    Raises:
        InputError: For anything else; `what` is "generators", "layers".
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence | set | frozenset) or not all(
        isinstance(one, str) for one in value
    ):
        raise InputError(f"found {value!r} for {what}; expected names")
    return tuple(value)
