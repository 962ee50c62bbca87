"""`declip-pipe train`: train a decoder from stores alone."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    Device,
    DeviceOption,
    StoresArgument,
    comma_separated,
    finite,
    require_folder,
)


class Initialization(StrEnum):
    """How a decoder's weights begin."""

    paper = "paper"
    pytorch = "pytorch"


def train(
    stores: StoresArgument,
    feature_layer: Annotated[
        str, typer.Option(help="Layer to decode, such as layer20 (the paper's for ViT-L/14).")
    ],
    decoder_type: Annotated[
        str, typer.Option(help="linear, attention, conv-4, conv-12 or conv-20.")
    ] = "conv-20",
    train_on: Annotated[
        str | None,
        typer.Option(help="Generators to learn from, comma-separated. Default: all together."),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="C1,C2,C3,C4",
            help="Channels of a conv decoder's four stages. Default: 512,256,128,64.",
        ),
    ] = None,
    initialization: Annotated[
        Initialization,
        typer.Option(help="Initial weights: the paper's N(0, 0.02), or PyTorch's own."),
    ] = Initialization.paper,
    epochs: Annotated[
        int, typer.Option(min=1, help="Most epochs; the schedule mostly stops before.")
    ] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 64,
    learning_rate: Annotated[
        float,
        typer.Option(
            min=1e-6, callback=finite, help="First learning rate; a tenth at each plateau."
        ),
    ] = 1e-3,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better validation IoU that end a plateau.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order.")] = 0,
    runs: Annotated[
        Path, typer.Option("-o", "--runs", metavar="RUNS", help="Folder that holds the runs.")
    ] = Path("runs"),
    device: DeviceOption = Device.auto,
) -> None:
    """Train a decoder on the fakes of one or several stores, with the paper's schedule.

    The last line of stdout is the run's folder. The same command again says that the run is
    finished; after an interruption it goes on with the next epoch.
    """
    from declip_pipeline.devices import choose_device
    from declip_pipeline.store.reader import Store
    from declip_pipeline.training.localization_run import localization_run
    from declip_pipeline.training.train import Epoch
    from stages.screen import remark, result

    require_folder(runs, "-o")
    trained = 0

    def show(epoch: Epoch) -> None:
        nonlocal trained
        trained += 1
        remark(
            f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
            f"validation IoU {epoch.valid_iou:.2f}, "
            f"learning rate {epoch.learning_rate:.0e}, {epoch.seconds:.1f} s"
        )

    run = localization_run(
        [Store(path) for path in stores],
        runs,
        layer=feature_layer,
        decoder_type=decoder_type,
        train_on=comma_separated(train_on),
        widths=_whole_numbers(widths),
        initialization=initialization.value,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        device=choose_device(device.value),
        on_epoch=show,
    )
    summary = run.summary()
    if not trained:
        remark("the run is finished already, nothing to do")
    remark(
        f"best validation IoU {summary['best_valid_iou']:.2f} in epoch {summary['best_epoch']} "
        f"of {summary['epochs']}"
    )
    result(str(run.path))


def _whole_numbers(text: str | None) -> list[int] | None:
    items = comma_separated(text)
    if items is None:
        return None
    if not all(item.isdecimal() and len(item) < 10 for item in items):
        raise InputError(f"--widths {text!r}; expected four whole numbers such as 512,256,128,64")
    return [int(item) for item in items]
