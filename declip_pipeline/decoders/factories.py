"""Decoders of one's own: the contract of a factory, its name, and finding it again by that name."""

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from declip_pipeline.entry_points import (
    entry_point_named,
    entry_point_names,
    load_entry_point,
    one_line,
)
from declip_pipeline.errors import DecoderError, InputError

if TYPE_CHECKING:
    from torch import nn

    from declip_pipeline.features import FeatureShape

ENTRY_POINTS = "declip_pipeline.decoders"
"""Group of the entry points by which an installed package offers its decoders."""


class DecoderFactory(Protocol):
    """Contract of a decoder of one's own: a class or function that builds a `torch.nn.Module`.

    It is called as `factory(shape, **options)`:

    - `shape` is the `FeatureShape` of the layer. Where several layers are joined, it is the shape
      after their fusion (`FeatureFusion`), which is not the factory's concern.
    - `options` are JSON values: the keywords of a `functools.partial`, and `widths`, a list of
      whole numbers, where widths were given. By default there are none.

    The module's `forward(features)` takes one tensor and returns one:

    - `features`: (N, *shape.array_shape) in the dtype of the module's parameters, on their device.
      That is (N, prefix_tokens + height * width, channels) for a sequence (a ViT), with the class
      token and registers first and the patches row by row behind them, or (N, channels, height,
      width) for a grid (`shape.is_grid`, a CNN).
    - returned: logits of "manipulated", (N, 256, 256), any real number; their sigmoid is the
      probability. The rows of the map are the rows of the image.

    The module has parameters, and its state dict holds tensors alone. Its initial weights are those
    that the factory gives it; PyTorch's generator is seeded before, so the factory does not seed.
    In evaluation mode, an image's map does not depend on the other images of the batch.
    `declip_pipeline.testing.decoders.DecoderContract` tests all of this.

    The factory is named in checkpoints, as `module:qualname` or by the name of its entry point, and
    is imported by that name when a checkpoint is opened: open only checkpoints whose modules you
    trust.
    """

    def __call__(self, shape: "FeatureShape", /, **options: Any) -> "nn.Module":
        """Build the module for features of a shape."""


@dataclass(frozen=True)
class FoundFactory:
    """A factory and where it comes from, as plain JSON: its `object`, `package` and `version`."""

    factory: DecoderFactory
    origin: Mapping[str, str]


# Factories passed as objects in this process, by name; some cannot be imported by it.
_passed: dict[str, DecoderFactory] = {}


def name_factory(factory: DecoderFactory) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a factory that is passed as an object.

    The name, `module:qualname`, stands for this object in this process from now on, also where it
    cannot be imported (a class of `__main__` or of a function). The options are the keywords of a
    `functools.partial`.

    Raises:
        DecoderError: Not a class or function, or options that are not JSON values.
    """
    options: dict[str, Any] = {}
    function: Any = factory
    if isinstance(factory, functools.partial) and not factory.args:
        options, function = dict(factory.keywords), factory.func
    module, qualname = (getattr(function, name, None) for name in ("__module__", "__qualname__"))
    if not callable(function) or not module or not qualname:
        raise DecoderError(
            f"decoder is of type {type(factory).__name__}; expected a class or function that "
            "builds a torch.nn.Module from a FeatureShape, or a functools.partial of one with "
            "keywords alone"
        )
    name = f"{module}:{qualname}"
    _passed[name] = function
    return name, checked_options(name, options)


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a checkpoint gives them back, tuples as lists. Raises `DecoderError`."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DecoderError(
            f"decoder {name} has options that a checkpoint cannot hold ({error}); expected JSON "
            "values: numbers, texts, booleans, None, lists and dicts"
        ) from error
    return found


def find_factory(name: str) -> FoundFactory | None:
    """Return the factory with a name, `module:qualname` or an entry point's; None if unknown.

    Raises:
        DecoderError: It cannot be imported, or several packages have an entry point of that name.
    """
    if name in _passed:
        return FoundFactory(_passed[name], {"object": name})
    if ":" in name:
        return FoundFactory(_imported(name), {"object": name})
    try:
        entry = entry_point_named(ENTRY_POINTS, name)
        if entry is None:
            return None
        factory = load_entry_point(entry)
    except InputError as error:
        raise DecoderError(str(error)) from error
    origin = {"object": entry.value}
    if entry.dist is not None:
        origin |= {"package": entry.dist.name, "version": entry.dist.version}
    return FoundFactory(factory, origin)


def registered_names() -> list[str]:
    """Return the names of the entry points of installed packages, sorted; nothing is imported."""
    return entry_point_names(ENTRY_POINTS)


def _imported(name: str) -> DecoderFactory:
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a module's own code raises
        where = f"add the folder of {module} to PYTHONPATH, or install its package"
        if module == "__main__" or "<" in qualname:
            where = "it was defined in a script or in a function; move it into a module of its own"
        raise DecoderError(
            f"the decoder {name} cannot be imported ({one_line(error)}); {where}, or pass it from "
            f"Python, decoder={qualname.rpartition('.')[2]}"
        ) from error
    factory: DecoderFactory = found
    return factory
