"""`declip-pipe cache show`: the features of a store as images."""

import re
from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import InputError, OutputExistsError
from stages.options import (
    OUTPUT,
    DeviceOption,
    OverwriteOption,
    comma_separated,
    refuse_given,
    require_folder,
)

FIGURE = ".png"


def show(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="A store that `extract` printed, or an exported one."),
    ],
    layers: Annotated[
        str, typer.Option(help="Layers to show: all, names (layer8,layer20) or numbers (0-7).")
    ] = "all",
    images: Annotated[
        str,
        typer.Option(
            "-i",
            "--images",
            metavar="N|ID,...",
            help="Number of images, spread over the generators; or their ids, comma-separated. Of "
            "a store of tiles, the id of an image stands for all its tiles.",
        ),
    ] = "8",
    run: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="A run, such as a linear probe, whose maps to show; repeatable."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE", help="Store of another backbone that a run also takes; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="The page to write, .html; the figure lies beside it as .png.",
        ),
    ] = Path("features.html"),
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    *,
    context: typer.Context,
) -> None:
    """Show the features of a store as images: what each layer sees.

    For each layer and image the first three principal components as colours, fitted over all
    positions of the images shown; the norm of each position; and massive activations. Writes one
    self-contained page and the same as a PNG; the last line of stdout is the page. No image file is
    opened: thumbnails and masks are the store's.
    """
    if not run:
        names = ("device", "beside")
        refuse_given(context, names, "is for the maps of a run; add --run, or leave it out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"-o {out}; expected a file that ends in .html")
    figure = out.with_suffix(FIGURE)
    require_folder(out.parent, "-o")
    for path in (out, figure):
        if path.is_dir():
            raise OutputExistsError(f"{path} is a folder; name another file with -o")
        if path.exists() and not overwrite:
            raise OutputExistsError(
                f"{path} is there; name another file with -o, or replace it with --overwrite"
            )
    chosen = _images(images)

    from declip_pipeline.backbones.registry import select_layers
    from declip_pipeline.reports.feature_figure import draw_feature_maps
    from declip_pipeline.reports.feature_maps import feature_maps
    from declip_pipeline.reports.feature_page import write_feature_page
    from declip_pipeline.store.reader import Store
    from stages.screen import progress, result

    opened = Store(store)
    with progress("mapping", "layers") as tell:
        maps = feature_maps(
            opened,
            layers=select_layers(layers, list(opened.layers)),
            images=chosen,
            runs=run or [],
            beside=beside or [],
            device=device,
            progress=tell,
        )
    draw_feature_maps(maps, figure)
    write_feature_page(maps, out)
    result(str(figure))
    result(str(out))


def _images(text: str) -> int | list[str]:
    """Return the number or the ids that a user typed. Raises `InputError` for neither."""
    # Names of files such as 000123 are ids.
    if re.fullmatch(r"0|[1-9][0-9]{0,8}", text.strip()):
        return int(text)
    return comma_separated(text) or []
