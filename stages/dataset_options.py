"""Options of commands that open a data set."""

from enum import StrEnum
from typing import Annotated

import typer

from declip_pipeline.errors import InputError
from stages.options import DATA


class Layout(StrEnum):
    """How a data set lies on disk."""

    auto = "auto"
    dolos = "dolos"
    autosplice = "autosplice"
    coco_sd = "coco-sd"
    tp_gt = "tp-gt"
    folders = "folders"
    json = "json"
    csv = "csv"


class Polarity(StrEnum):
    """Which colour of a mask marks fake pixels."""

    white = "white-is-fake"
    black = "black-is-fake"


LayoutOption = Annotated[
    Layout,
    typer.Option(
        help="How DATA lies on disk; auto recognises each of the others.",
        rich_help_panel=DATA,
    ),
]
PolarityOption = Annotated[
    Polarity | None,
    typer.Option(
        help="Which colour marks fake pixels. Default: black for Dolos, else white.",
        rich_help_panel=DATA,
    ),
]
AssignSplitsOption = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VALID,TEST",
        help="For a dataset without splits: percents, such as 80,10,10; drawn by name.",
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


def fake_is_white(polarity: Polarity | None) -> bool | None:
    """What `open_dataset` takes for a polarity; None leaves it to the layout."""
    return None if polarity is None else polarity is Polarity.white


def percents(text: str | None) -> tuple[int, int, int] | None:
    """The percents of `--assign-splits`. Raises `InputError` for anything else."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"--assign-splits {text!r}; expected three whole percents such as 80,10,10"
        )
    train, valid, test = (int(part) for part in parts)
    return train, valid, test
