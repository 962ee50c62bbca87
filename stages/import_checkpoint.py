"""`declip-pipe import-checkpoint`: a published checkpoint as a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import (
    DATA,
    DeviceOption,
    ImageSizeOption,
    WeightsOption,
    comma_separated,
    require_folder,
)
from stages.options import image_size as read_image_size
from stages.training_options import RunsOption

if TYPE_CHECKING:
    from declip_pipeline.backbones.backbone import Backbone


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.pth", help="A checkpoint of the published format.")
    ],
    runs: RunsOption = Path("runs"),
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            help="Backbone of the decoder, as for `extract`. Default: the one of ViT-L/14, RN50 "
            "and ViT-L/14,RN50 that it fits.",
        ),
    ] = None,
    feature_layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Layer of the decoder, where neither FILE, its name nor its shapes say it.",
        ),
    ] = None,
    decoder_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Type of the decoder, where FILE does not say it."),
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Generators that it learned, comma-separated, for the matrix of `evaluate`. "
            "Default: what a published file's name says, else unknown.",
            rich_help_panel=DATA,
        ),
    ] = None,
    weights: WeightsOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Make a run of a published checkpoint, for `evaluate` and `predict`.

    FILE is read without running any code in it. Where it holds the weights of its backbone, they
    must be those that --arch and --weights open. The last line of stdout is the run's folder; the
    same command again finds it.
    """
    require_folder(runs, "-o")
    from declip_pipeline.backbones.registry import open_backbone
    from declip_pipeline.backbones.weights import absolute_weights
    from declip_pipeline.exchange.published_run import UNKNOWN, import_published
    from stages.screen import remark, result, working

    size = read_image_size(image_size)

    def opened(name: str) -> "Backbone":
        return open_backbone(name, weights=weights, image_size=size, device=device)

    with working(f"importing {file}"):
        run = import_published(
            file,
            runs,
            opened,
            arch=arch,
            feature_layer=feature_layer,
            decoder_type=decoder_type,
            train_on=comma_separated(train_on),
            weights=absolute_weights(weights or []),
        )
    config = run.config()
    learned = ", ".join(config["train_on"])
    remark(
        f"the {config['decoder_type']} decoder for {config['layer']} of "
        f"{config['features']['backbone']}, trained on {learned}"
    )
    if learned == UNKNOWN:
        remark("what it was trained on is not known; --train-on says it")
    result(str(run.path))
