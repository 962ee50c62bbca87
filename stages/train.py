"""`declip-pipe train`: train decoders from stores alone, one or a grid of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import DeclipError
from stages.options import (
    Device,
    DeviceOption,
    SchedulerOption,
    StoresArgument,
    comma_separated,
    require_folder,
)
from stages.training_options import (
    BesideOption,
    CompileOption,
    DaskOption,
    DetectionOption,
    EpochsOption,
    Fusion,
    FusionOption,
    Initialization,
    InitializationOption,
    InitialWeightsOption,
    MicroBatchOption,
    PatienceOption,
    PoolingOption,
    PrecisionOption,
    RunsOption,
    StepOption,
    TensorboardOption,
    TrainingPrecision,
    WidthsOption,
    beside_of,
    learning_rates_of,
    pooling_of,
    seeds_of,
    widths_of,
)

if TYPE_CHECKING:
    from declip_pipeline.sweeps.grid import Cell
    from declip_pipeline.sweeps.grid_job import GridTrainer


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the options' defaults."""
    if path is not None:
        from stages.settings import GridSettings, read_settings

        context.default_map = read_settings(path, GridSettings).as_options()
    return path


def train(
    stores: StoresArgument,
    feature_layer: Annotated[
        str,
        typer.Option(
            "--feature-layer",
            "--layers",
            help="Layer to decode, such as layer20 (the paper's for ViT-L/14), or several that are "
            "joined, layer8+layer14; comma-separated, a grid: names, numbers (0-23), all.",
        ),
    ],
    decoder_type: Annotated[
        str,
        typer.Option(
            "--decoder-type",
            "--decoders",
            help="linear, attention, conv-4, conv-12, conv-20, probe (scikit-learn on patches), "
            "probe-pca-64, or patch-forensics (on a store of --arch pixels:299); several are a "
            "grid.",
        ),
    ] = "conv-20",
    train_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Generators to learn from, comma-separated; given again, another training "
            "set of a grid. Default: all together."
        ),
    ] = None,
    detection: DetectionOption = False,
    pooling: PoolingOption = None,
    beside: BesideOption = None,
    fusion: FusionOption = Fusion.concat,
    widths: WidthsOption = None,
    initialization: InitializationOption = Initialization.paper,
    initial_weights: InitialWeightsOption = None,
    epochs: EpochsOption = 400,
    batch_size: StepOption = 64,
    micro_batch_size: MicroBatchOption = None,
    learning_rate: Annotated[
        str,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="First learning rate; a tenth at each plateau; several are a grid.",
        ),
    ] = "1e-3",
    patience: PatienceOption = 5,
    seed: Annotated[
        str,
        typer.Option(
            "--seed", "--seeds", help="Seed of the weights and of the order; several are a grid."
        ),
    ] = "0",
    precision: PrecisionOption = TrainingPrecision.auto,
    compiled: CompileOption = False,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Read the stores' pictures and compute their features anew in every epoch, "
            "unrounded: slow, the reference for what a cache saves.",
        ),
    ] = False,
    runs: RunsOption = Path("runs"),
    device: DeviceOption = Device.auto,
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    tensorboard: TensorboardOption = False,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_take_config,
            metavar="FILE.yaml",
            help="Take options from a file, such as configs/grid.yaml; those given here win.",
        ),
    ] = None,
) -> list[Path]:
    """Train decoders on the fakes of one or several stores, with the paper's schedule.

    With --detection, on their fakes and all their real pictures, from labels of pictures: masks
    are not looked at, fake and real pictures count the same however many there are of each.

    The last line of stdout is the run's folder. The same command again says that the run is
    finished; after an interruption it goes on with the next epoch.

    Several layers, decoders, seeds, learning rates or training sets are a grid: each combination
    is a run, finished ones are skipped, those that read the same layer share one read of it. The
    last line is the grid's table then, results.csv (and .parquet), which is kept while it runs. The
    same command in several processes shares the work. With --dask or --scheduler, one run is a grid
    as well.
    """
    from declip_pipeline.sweeps.grid import grid_cells
    from declip_pipeline.sweeps.grid_job import GridJob
    from declip_pipeline.training.recipe import Recipe
    from stages.grid_training import (
        asked_workers,
        layers_of,
        open_trainer,
        own_device,
        train_grid,
    )
    from stages.screen import result

    require_folder(runs, "-o")
    workers = asked_workers(dask, scheduler, device.value)
    decoder_types = comma_separated(decoder_type) or []
    job = GridJob(
        stores=tuple(stores),
        runs=str(runs),
        recipe=Recipe(
            decoder_type=decoder_types[0],
            widths=widths_of(widths),
            initialization=initialization.value,
            # As workers elsewhere find it.
            initial_weights=str(initial_weights.absolute()) if initial_weights else None,
            epochs=epochs,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            patience=patience,
            compile=compiled,
            pooling=pooling_of(detection, pooling),
        ),
        precision=precision.value,
        beside=beside_of(beside),
        fusion=fusion.value,
        device=own_device(device.value, workers),
        tensorboard=tensorboard,
        uncached=no_cache,
    )
    cells = grid_cells(
        layers_of(feature_layer, stores[0]),
        decoder_types,
        seeds_of(seed),
        learning_rates_of(learning_rate),
        [tuple(comma_separated(text) or []) for text in train_on or []] or [None],
    )
    trainer = open_trainer(job, cells)
    if len(cells) == 1 and workers is None:
        return [_train_one(cells[0], trainer)]
    folder, results = train_grid(trainer, cells, workers)
    result(str(folder / "results.csv"))
    if any(row.state == "failed" for row in results):
        raise typer.Exit(1)
    return [Path(row.run) for row in results if row.run is not None]


def _train_one(cell: "Cell", trainer: "GridTrainer") -> Path:
    """Train a single decoder, with a line an epoch; returns the run's folder."""
    from declip_pipeline.training.train import Epoch
    from declip_pipeline.training.validation_score import SCORES, score_name
    from stages.screen import remark, result

    trained = 0

    def show(number: int, epoch: Epoch) -> None:
        nonlocal trained
        trained += 1
        remark(
            f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
            f"validation {SCORES[epoch.score]} {epoch.valid_score:.2f}, "
            f"learning rate {epoch.learning_rate:.0e}, {epoch.seconds:.1f} s"
        )

    (run,) = trainer.train([cell], show)
    if isinstance(run, DeclipError):
        raise run
    summary = run.summary()
    if not trained:
        remark("the run is finished already, nothing to do")
    name = score_name(summary, "best_valid_")
    remark(
        f"best validation {SCORES[name]} {summary[f'best_valid_{name}']:.2f} in epoch "
        f"{summary['best_epoch']} of {summary['epochs']}"
    )
    for layer, weight in summary.get("layer_weights", {}).items():
        remark(f"weight of {layer}: {weight:.3f}")
    result(str(run.path))
    return run.path
