"""Options that several commands share."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from declip_pipeline.errors import InputError, OutputExistsError
from declip_pipeline.options import DeviceName, FigureFormat, LayoutName, MapsAre

if TYPE_CHECKING:
    from declip_pipeline.reports.figure_file import FigureStyle


def finite(value: float) -> float:
    """Refuse inf and nan, which pass every limit: a callback of options that are numbers."""
    if not math.isfinite(value):
        raise InputError(f"{value} is not a number that can be used; expected a finite one")
    return value


Polarity = Literal["white-is-fake", "black-is-fake"]
"""Colour of a mask that marks fake pixels."""

# Panels of a help page, in their order; the options that most users need stand before them.
DATA, MAPS = "Data", "Maps of other tools"
DECODER, TRAINING, MACHINE, OUTPUT = "Decoder", "Training", "Machine", "Output"

DASK_HELP = "local:N here, one a GPU, or slurm:configs/slurm.yaml."

BatchSizeOption = Annotated[
    int,
    typer.Option(
        min=1,
        # Figures of benchmarks/results/evaluate_memory.json, compared by a test.
        help="Images a step. Whatever it is, maps at the masks' own sizes are of 4 megapixels at a "
        "time, or of one larger image, and take at most 65 bytes a pixel (50 where a quarter of "
        "it is fake).",
        rich_help_panel=MACHINE,
    ),
]
DeviceOption = Annotated[
    DeviceName,
    typer.Option(
        rich_help_panel=MACHINE,
        help="Where to compute; auto takes CUDA where there is one.",
    ),
]
CostOption = Annotated[
    bool,
    typer.Option(
        "--cost",
        help="Also print what an image costs: parameters, multiply-accumulates and measured "
        "milliseconds of decoder and backbone.",
        rich_help_panel=OUTPUT,
    ),
]
CacheOption = Annotated[
    str,
    typer.Option(
        metavar="DIR|URL",
        rich_help_panel=OUTPUT,
        help="Folder that holds the stores, or s3://BUCKET/FOLDER (credentials from AWS_*).",
    ),
]
MegapixelsOption = Annotated[
    float,
    typer.Option(
        min=0.001,
        callback=finite,
        rich_help_panel=MACHINE,
        help="Largest image to decode, in millions of pixels.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=OUTPUT,
        help="Replace what an earlier run left.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=DATA,
        help="Backbone weights from a file: OpenAI .pt (TorchScript or state dict), open_clip "
        ".safetensors or .bin, Hugging Face's CLIP, or DINOv2's .pth under timm's name. Once for "
        "each part of a fusion, in order. random:SEED gives untrained weights, for measuring "
        "speed. Default: downloaded from the hub, or embedded.",
    ),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        rich_help_panel=DATA,
        help="Size in pixels that the backbone sees, multiples of its patch or stride: 448, or "
        "448x672 (height x width). Default: the backbone's own; 224 for CLIP and DINOv2.",
    ),
]
LayoutOption = Annotated[
    LayoutName,
    typer.Option(
        help="How DATA lies on disk; auto recognises each of the others.",
        rich_help_panel=DATA,
    ),
]
PolarityOption = Annotated[
    Polarity | None,
    typer.Option(
        help="Which colour marks fake pixels. Default: black for Dolos and NIST16, else white.",
        rich_help_panel=DATA,
    ),
]
AssignSplitsOption = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VALID,TEST",
        help="For a dataset without splits: percents, such as 80,10,10; drawn by name. With 0 for "
        "test, a train split without a valid one is divided.",
        rich_help_panel=DATA,
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT=NAME,...",
        help="Names of the columns of Parquet files where they are not recognised: "
        "image=photo,mask=gt; also label, generator, split, source, scene, key. mask=none takes "
        "the images without masks.",
        rich_help_panel=DATA,
    ),
]
AllowUnpairedOption = Annotated[
    bool,
    typer.Option(
        "--allow-unpaired",
        help="Leave out what has no partner.",
        rich_help_panel=DATA,
    ),
]
MapsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:GENERATOR+...]=FOLDER",
        help="Maps that another tool saved: grey .png (8 or 16 bits), .tif, .npy or .npz, named as "
        "their images. The generators that it learned, where they are stated, decide what is in "
        "domain. Repeatable.",
        rich_help_panel=MAPS,
    ),
]
MapsAreOption = Annotated[
    MapsAre,
    typer.Option(
        help="Values of the maps: probabilities from 0 to 1, logits, or masks of two values, the "
        "larger one fake.",
        rich_help_panel=MAPS,
    ),
]
ResizeMapsOption = Annotated[
    bool,
    typer.Option(
        "--resize-maps",
        help="Resize maps of another size than their image's, bilinearly, instead of refusing "
        "them.",
        rich_help_panel=MAPS,
    ),
]
MapsKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Array of .npz files. Default: map, or the only one that can be a map.",
        rich_help_panel=MAPS,
    ),
]
FigureFormatOption = Annotated[
    FigureFormat,
    typer.Option(
        help="File format of figures; fonts of a PDF are embedded, texts of an SVG stay text.",
        rich_help_panel=OUTPUT,
    ),
]
ForPaperOption = Annotated[
    bool,
    typer.Option(
        "--for-paper",
        help="Draw figures for a paper: as wide as its columns, letters of 7 and 8 points, no "
        "title inside.",
        rich_help_panel=OUTPUT,
    ),
]
PaperColumnsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2,
        help="Columns of a paper's page that a figure takes, for --for-paper: 1 (3.25 inches) or 2 "
        "(6.875 inches). Default: 1.",
        rich_help_panel=OUTPUT,
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT",
        rich_help_panel=MACHINE,
        help="Compute on the workers of a Dask scheduler that runs.",
    ),
]
StoresArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="STORE",
        help="Stores that `extract` printed: folders or s3:// URLs; or files of `cache export`.",
    ),
]


def figure_style(
    figure_format: FigureFormat, for_paper: bool, paper_columns: int | None
) -> "FigureStyle":
    """Return the form of figures. Raises `InputError` for columns of no paper."""
    from declip_pipeline.reports.figure_file import FigureStyle

    if paper_columns is not None and not for_paper:
        raise InputError(
            f"--paper-columns {paper_columns} is for figures of a paper; add --for-paper"
        )
    return FigureStyle(figure_format, (paper_columns or 1) if for_paper else None)


def require_folder(path: Path, option: str) -> None:
    """Refuse a folder to write into that cannot be one, or is a store's; `option` names another."""
    from declip_pipeline.store.reader import enclosing_store

    nearest = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
    if nearest.exists() and not nearest.is_dir():
        raise OutputExistsError(f"{nearest} is a file; name a folder with {option}")
    inside = enclosing_store(nearest)
    if inside is not None:
        raise OutputExistsError(f"{path} lies in the store {inside}; name another with {option}")
    if nearest.exists() and not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputExistsError(
            f"{nearest} cannot be written into; name another folder with {option}"
        )


def require_file(path: Path, option: str) -> None:
    """Refuse a file to write that cannot be one; `option` names another."""
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; name a file with {option}")
    require_folder(path.parent, option)


def refuse_given(context: typer.Context, names: Sequence[str], reason: str) -> None:
    """Refuse options that were typed where they mean nothing.

    Args:
        context: The command's context.
        names: Its parameters.
        reason: Why the first one that was typed means nothing, and what to do.

    Raises:
        InputError: One of them was typed, with its default or another value.
    """
    from stages.texts import flag_of

    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{flag_of(name)} {reason}")


def comma_separated(text: str | None, *, repeats: bool = False) -> list[str] | None:
    """Return the items of a comma-separated option; None where it was not given.

    Raises `InputError` for an empty item, and unless `repeats` for one that is given twice.
    """
    if text is None:
        return None
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise InputError(f"{text!r} has an empty item; expected names separated by commas")
    repeated = next((item for item in items if items.count(item) > 1), None)
    if repeated is not None and not repeats:
        raise InputError(f"{repeated!r} is given twice in {text!r}; give each once")
    return items


def fake_is_white(polarity: Polarity | None) -> bool | None:
    """Return `fake_is_white` of `open_dataset`; None leaves it to the layout."""
    return None if polarity is None else polarity == "white-is-fake"


def image_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of `--image-size`. Raises `InputError` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if match is None:
        raise InputError(f"--image-size {text!r}; expected pixels such as 448 or 448x672")
    return int(match[1]), int(match[2] or match[1])


def columns_named(text: str | None) -> dict[str, str] | None:
    """Return the names of `--columns`. Raises `InputError` for anything else."""
    parts = [item.partition("=") for item in comma_separated(text) or []]
    for what, _, name in parts:
        if not what or not name:
            raise InputError(f"--columns {text!r}; expected WHAT=NAME, such as image=photo,mask=gt")
    return {what.strip(): name.strip() for what, _, name in parts} or None


def percents(text: str | None) -> tuple[int, int, int] | None:
    """Return the percents of `--assign-splits`. Raises `InputError` for anything else."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"--assign-splits {text!r}; expected three whole percents such as 80,10,10"
        )
    train, valid, test = (int(part) for part in parts)
    return train, valid, test
