"""Options of the commands that train."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from declip_pipeline.errors import InputError
from stages.options import comma_separated

LEAST_RATE = 1e-6


class Initialization(StrEnum):
    """How a decoder's weights begin."""

    paper = "paper"
    pytorch = "pytorch"
    imagenet = "imagenet"


class Fusion(StrEnum):
    """How features of several layers become one."""

    concat = "concat"
    weighted = "weighted"


class PoolingChoice(StrEnum):
    """How a map becomes one logit of its picture."""

    mean = "mean"
    max = "max"
    learned = "learned"


class TrainingPrecision(StrEnum):
    """How a decoder computes while it is trained."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


WidthsOption = Annotated[
    str | None,
    typer.Option(
        metavar="C1,C2,C3,C4",
        help="Channels of a conv decoder's four stages. Default: 512,256,128,64.",
    ),
]
InitializationOption = Annotated[
    Initialization,
    typer.Option(
        help="Initial weights: as published, N(0, 0.02); PyTorch's own (as published for "
        "patch-forensics); or, for patch-forensics, ImageNet's."
    ),
]
InitialWeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Those for --initialization imagenet: timm's legacy_xception. Default: downloaded.",
    ),
]
EpochsOption = Annotated[
    int, typer.Option(min=1, help="Most epochs; the schedule mostly stops before.")
]
StepOption = Annotated[int, typer.Option(min=1, help="Pictures a step.")]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Pictures computed at once, where a step's do not fit into memory: their gradients "
        "are added up. BatchNorm sees so many. Default: all of a step's.",
    ),
]
PatienceOption = Annotated[
    int, typer.Option(min=1, help="Epochs without a better validation score that end a plateau.")
]
PrecisionOption = Annotated[
    TrainingPrecision,
    typer.Option(
        help="Of the decoder's forward and backward pass. auto is bfloat16 where the device "
        "computes in it and the decoder is not linear; float32 is the reference."
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Train with torch.compile: measured slower on a CPU (benchmarks/train.py --compile).",
    ),
]
DetectionOption = Annotated[
    bool,
    typer.Option(
        "--detection",
        help="Learn which pictures are fake, from labels of fake and real ones, not from masks.",
    ),
]
PoolingOption = Annotated[
    PoolingChoice | None,
    typer.Option(
        help="With --detection, how a map becomes one logit: its mean (the paper's, the default), "
        "its maximum, or learned between the two (log-mean-exp)."
    ),
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STORE:LAYER",
        help="A layer of another backbone's store of the same pictures, which every decoder gets "
        "as well, resampled to the finest grid; repeatable.",
    ),
]
FusionOption = Annotated[
    Fusion,
    typer.Option(
        help="How several layers are joined: channels side by side, or a sum with learned weights."
    ),
]
TensorboardOption = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Also log to RUN/tensorboard (pip install 'declip-pipe[tensorboard]').",
    ),
]
RunsOption = Annotated[
    Path, typer.Option("-o", "--runs", metavar="RUNS", help="Folder that holds the runs.")
]

DaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLUSTER",
        help="Train in worker processes, a run at a time in each: local:N here, one a GPU, or "
        "slurm:configs/slurm.yaml. All must see the stores and RUNS at the same path.",
    ),
]


def beside_of(texts: list[str] | None) -> tuple[tuple[str, str], ...]:
    """The stores and layers of an option. Raises `InputError`."""
    pairs = [text.rpartition(":") for text in texts or []]
    for (store, _, layer), text in zip(pairs, texts or [], strict=True):
        if not store or not layer or "/" in layer:
            raise InputError(f"--beside {text!r}; expected STORE:LAYER, as in cache/...:layer3")
    return tuple((store, layer) for store, _, layer in pairs)


def pooling_of(detection: bool, pooling: PoolingChoice | None) -> Any:
    """The pooling of a training's recipe, None of localization. Raises `InputError`."""
    if pooling is not None and not detection:
        raise InputError(
            f"--pooling {pooling.value} is for detection, which --detection asks for; "
            "leave one out or add the other"
        )
    return (pooling or PoolingChoice.mean).value if detection else None


def seeds_of(text: str) -> list[int]:
    """The seeds of an option. Raises `InputError`."""
    return [_number(item, int, "--seed") for item in comma_separated(text) or []]


def learning_rates_of(text: str) -> list[float]:
    """The learning rates of an option. Raises `InputError`."""
    return [_number(item, float, "--learning-rate") for item in comma_separated(text) or []]


def _number(text: str, kind: type[Any], option: str) -> Any:
    """An item of an option that takes numbers."""
    expected = "a whole number" if kind is int else f"a number of at least {LEAST_RATE:g}"
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not (kind is int or LEAST_RATE <= value < math.inf):
        raise InputError(f"{option} {text!r}; expected {expected}")
    return value


def widths_of(text: str | None) -> tuple[int, ...] | None:
    """The widths of an option. Raises `InputError`."""
    items = comma_separated(text)
    if items is None:
        return None
    if not all(item.isdecimal() and len(item) < 10 for item in items):
        raise InputError(f"--widths {text!r}; expected four whole numbers such as 512,256,128,64")
    return tuple(int(item) for item in items)
