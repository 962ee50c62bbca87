"""`declip-pipe train`: train decoders from stores alone, one or a grid of them."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    Device,
    DeviceOption,
    StoresArgument,
    comma_separated,
    require_folder,
)

if TYPE_CHECKING:
    from functools import partial

    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.grid import Cell
    from declip_pipeline.training.run_folder import RunFolder

LEAST_RATE = 1e-6


class Initialization(StrEnum):
    """How a decoder's weights begin."""

    paper = "paper"
    pytorch = "pytorch"


def train(
    stores: StoresArgument,
    feature_layer: Annotated[
        str,
        typer.Option(
            "--feature-layer",
            "--layers",
            help="Layer to decode, such as layer20 (the paper's for ViT-L/14); several are a grid: "
            "names, numbers (0-23), all.",
        ),
    ],
    decoder_type: Annotated[
        str,
        typer.Option(
            "--decoder-type",
            "--decoders",
            help="linear, attention, conv-4, conv-12 or conv-20; several are a grid.",
        ),
    ] = "conv-20",
    train_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Generators to learn from, comma-separated; given again, another training "
            "set of a grid. Default: all together."
        ),
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
        str,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="First learning rate; a tenth at each plateau; several are a grid.",
        ),
    ] = "1e-3",
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better validation IoU that end a plateau.")
    ] = 5,
    seed: Annotated[
        str,
        typer.Option(
            "--seed", "--seeds", help="Seed of the weights and of the order; several are a grid."
        ),
    ] = "0",
    runs: Annotated[
        Path, typer.Option("-o", "--runs", metavar="RUNS", help="Folder that holds the runs.")
    ] = Path("runs"),
    device: DeviceOption = Device.auto,
) -> None:
    """Train decoders on the fakes of one or several stores, with the paper's schedule.

    The last line of stdout is the run's folder. The same command again says that the run is
    finished; after an interruption it goes on with the next epoch.

    Several layers, decoders, seeds, learning rates or training sets are a grid: each combination
    is a run, finished ones are skipped, those that read the same layer share one read of it. The
    last line is the grid's table then, results.csv (and .parquet), which is kept while it runs. The
    same command in several processes shares the work.
    """
    from functools import partial

    from declip_pipeline.backbones.layer_selection import select_layers
    from declip_pipeline.devices import choose_device
    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.grid import grid_cells
    from declip_pipeline.training.feeds import Feeds
    from declip_pipeline.training.localization_run import localization_run
    from stages.screen import remark

    require_folder(runs, "-o")
    opened = [Store(path) for path in stores]
    cells = grid_cells(
        select_layers(feature_layer, list(opened[0].layers)),
        comma_separated(decoder_type) or [],
        [_number(text, int, "--seed") for text in comma_separated(seed) or []],
        [_number(text, float, "--learning-rate") for text in comma_separated(learning_rate) or []],
        [tuple(comma_separated(text) or []) for text in train_on or []] or [None],
    )
    channels = _whole_numbers(widths)
    computing_on = choose_device(device.value)
    train_one = partial(
        localization_run,
        opened,
        runs,
        widths=channels,
        initialization=initialization.value,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        device=computing_on,
        feeds=Feeds(opened, computing_on, notice=remark),
    )
    if len(cells) == 1:
        _train_one(cells[0], train_one)
        return
    _train_grid(cells, train_one, opened, runs, channels)


def _train_one(cell: "Cell", train: "Callable[..., RunFolder]") -> None:
    """Train a single decoder, with a line an epoch."""
    from declip_pipeline.training.train import Epoch
    from stages.screen import remark, result

    trained = 0

    def show(epoch: Epoch) -> None:
        nonlocal trained
        trained += 1
        remark(
            f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
            f"validation IoU {epoch.valid_iou:.2f}, "
            f"learning rate {epoch.learning_rate:.0e}, {epoch.seconds:.1f} s"
        )

    run = train(**vars(cell), on_epoch=show)
    summary = run.summary()
    if not trained:
        remark("the run is finished already, nothing to do")
    remark(
        f"best validation IoU {summary['best_valid_iou']:.2f} in epoch {summary['best_epoch']} "
        f"of {summary['epochs']}"
    )
    result(str(run.path))


def _train_grid(
    cells: "Sequence[Cell]",
    train: "partial[RunFolder]",
    stores: "Sequence[Store]",
    runs: Path,
    widths: list[int] | None,
) -> None:
    """Train every cell, with a table that grows."""
    import torch

    from declip_pipeline.decoders.building import build_decoder
    from declip_pipeline.sweeps.grid import Grid, grid_name
    from stages.grid_table import live_grid
    from stages.screen import result

    types = {cell.decoder_type for cell in cells}
    # Beside conv decoders, which they are for, others of the grid have none.
    widths_of = {
        name: None if widths and len(types) > 1 and not name.startswith("conv") else widths
        for name in types
    }
    # What no run could do is refused before the first one.
    for layer, name in dict.fromkeys((cell.layer, cell.decoder_type) for cell in cells):
        with torch.device("meta"):
            build_decoder(name, stores[0].layers[layer], widths=widths_of[name])
    asked = {name: train.keywords[name] for name in _ASKED}
    folder = runs / grid_name(
        {**asked, "stores": [store.identity.sha256 for store in stores]}, cells
    )
    with live_grid() as tell:
        grid = Grid(
            cells,
            folder,
            lambda cell, on_epoch: train(
                **vars(cell), widths=widths_of[cell.decoder_type], on_epoch=on_epoch
            ),
            on_change=tell,
        )
        results = grid.run()
    result(str(folder / "results.csv"))
    if any(row.state == "failed" for row in results):
        raise typer.Exit(1)


# What is the same for all cells of a grid, and part of what the grid is.
_ASKED = ("widths", "initialization", "epochs", "batch_size", "patience")


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


def _whole_numbers(text: str | None) -> list[int] | None:
    items = comma_separated(text)
    if items is None:
        return None
    if not all(item.isdecimal() and len(item) < 10 for item in items):
        raise InputError(f"--widths {text!r}; expected four whole numbers such as 512,256,128,64")
    return [int(item) for item in items]
