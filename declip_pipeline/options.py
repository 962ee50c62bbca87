"""Options as data: the names that some take, and a description for each field of a recipe.

Nothing heavy is imported here: programs that only list options read this module.
"""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

InitializationScheme = Literal["paper", "pytorch"]
"""Initial weights of any decoder: N(0, 0.02) as published, or PyTorch's own."""

Initialization = Literal["paper", "pytorch", "imagenet"]
"""As `InitializationScheme`; "imagenet" is for `patch-forensics` alone."""

PoolingName = Literal["mean", "max", "learned"]
"""Reduction of a map of logits to one logit of its image."""

FusionMode = Literal["concat", "weighted"]
"""Combination of the features of several layers."""

Normalization = Literal["none", "channel", "instance", "layernorm"]
"""Normalization of features before they are decoded; see `FeatureNormalization`."""

Precision = Literal["float32", "bfloat16"]
"""Number format of a decoder's forward and backward pass."""

PrecisionName = Literal["auto", "float32", "bfloat16"]
"""As `Precision`; "auto" is the fastest that a device computes in itself."""

RecipeName = Literal["paper", "auto"]
"""Origin of the options of a training that are not given: the paper, or what suits the data."""

ScheduleName = Literal["plateau", "one-cycle", "cosine"]
"""Schedule of the learning rate: after each epoch as published, or after each step."""

LossName = Literal["bce", "dice", "focal", "lovasz"]
"""Loss of a map of logits; several are added up."""

BackbonePrecision = Literal["float32", "bfloat16", "float16"]
"""Number format of a backbone's forward pass."""

BackbonePrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
"""As `BackbonePrecision`; "auto" is bfloat16 on CUDA, else float32."""

DeviceName = Literal["auto", "cpu", "cuda"]
"""Device of a computation; "auto" is CUDA if there is a GPU."""

LayoutName = Literal[
    "auto",
    "dolos",
    "autosplice",
    "casia1",
    "casia2",
    "columbia",
    "coverage",
    "tgif",
    "cocoglide",
    "defacto",
    "imd2020",
    "nist16",
    "sagi-d",
    "coco-sd",
    "tp-gt",
    "folders",
    "opensdi",
    "parquet",
    "images",
    "json",
    "csv",
]
"""Layout of a dataset on disk; "auto" recognises each of the others."""

DtypeName = Literal["float16", "bfloat16", "float32", "int8", "int8-per-channel"]
"""Type of stored features."""

FigureFormat = Literal["png", "pdf", "svg"]
"""File format of a figure."""

SavedKind = Literal["mask", "map", "map-full", "overlay"]
"""Kinds of files that a prediction saves."""

MapsAre = Literal["probabilities", "logits", "masks"]
"""Values of maps that another tool saved."""

Group = Literal["main", "data", "decoder", "training", "machine", "output"]


@dataclass(frozen=True)
class Option:
    """Description of a dataclass field that a user may set, put into its `Annotated` type.

    Args:
        help: One or two sentences.
        group: What the option is about; "main" are the few that most users set.
        choices: The names that a screen offers, where the field's type does not list them.
        least: Smallest value of a number.
        several: Whether a grid takes several values, each of the field's type.
        form: How a value is written, where the type does not say it: "FILE".
        expected: The end of "expected ..." in errors about a value that cannot be read.
    """

    help: str
    group: Group
    choices: tuple[str, ...] = ()
    least: float | None = None
    several: bool = False
    form: str | None = None
    expected: str | None = None


@dataclass(frozen=True)
class Field:
    """A field with an `Option`: `kind` is its type without None, `default` MISSING if required."""

    name: str
    kind: Any
    default: Any
    option: Option


def described_fields(cls: type) -> Iterator[Field]:
    """The fields of a dataclass that have an `Option`, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        kind, option = get_args(hints[field.name])
        own = [part for part in get_args(kind) if part is not type(None)]
        is_optional = type(None) in get_args(kind)
        default = None if is_optional and field.default is MISSING else field.default
        kind = Literal[option.choices] if option.choices else own[0] if is_optional else kind
        yield Field(field.name, kind, default, option)
