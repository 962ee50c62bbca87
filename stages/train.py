"""`declip-pipe train`: train decoders from stores alone, one or a grid of them."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import DeclipError
from declip_pipeline.training.validation_score import SCORES, score_name
from stages.options import TRAINING, SchedulerOption, StoresArgument, require_folder
from stages.screen import remark, result
from stages.training_options import DaskOption, grid_options, with_training_options

if TYPE_CHECKING:
    from declip_pipeline.sweeps.grid_job import Cell
    from declip_pipeline.sweeps.grid_trainer import GridTrainer
    from declip_pipeline.training.train import Epoch


def _take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's values the options' defaults."""
    if path is not None:
        from stages.settings import grid_defaults

        context.default_map = grid_defaults(path)
    return path


@with_training_options()
def train(
    stores: StoresArgument,
    asked: Mapping[str, Any],
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_take_config,
            metavar="FILE.yaml",
            rich_help_panel=TRAINING,
            help="Take options from a file, such as configs/grid.yaml; those given here win.",
        ),
    ] = None,
) -> None:
    """Train decoders on the fakes of one or several stores.

    Epochs, batches, learning rate, its schedule and the initial weights suit the decoder and the
    number of training images where they are not given; --recipe paper takes the published ones.

    With --detection, on their fakes and all their real images, from labels of images: masks
    are not looked at, fake and real images count the same however many there are of each.

    The last line of stdout is the run's folder. The same command again says that the run is
    finished; after an interruption it goes on with the next epoch.

    Several layers, decoders, seeds, learning rates or training sets are a grid: each combination
    is a run, finished ones are skipped, those that read the same layer share one read of it. The
    last line is the grid's table then, results.csv (and .parquet), which is kept while it runs. The
    same command in several processes shares the work. With --dask or --scheduler, one run is a grid
    as well.
    """
    from declip_pipeline.sweeps.grid_training import GridTraining
    from stages.grid_screen import live_grid

    require_folder(Path(asked["runs"]), "-o")
    training = GridTraining(
        stores, grid_options(asked), dask=dask, scheduler=scheduler, notice=remark
    )
    if len(training.cells) == 1 and not training.has_workers:
        _train_one(training.cells[0], training.trainer)
        return
    with live_grid() as tell:
        rows = training.run(tell)
    result(str(training.folder / "results.csv"))
    if any(row.state == "failed" for row in rows):
        raise typer.Exit(1)


def _train_one(cell: "Cell", trainer: "GridTrainer") -> None:
    """Train a single decoder, with a line an epoch."""
    from declip_pipeline.decoders.names import is_fitted

    trained, seconds = 0, 0.0
    is_trained = not is_fitted(cell.decoder_type)

    def show(number: int, epoch: "Epoch") -> None:
        nonlocal trained, seconds
        trained += 1
        seconds += epoch.seconds
        rate = f"learning rate {epoch.learning_rate:.0e}, " if is_trained else ""
        left = (trainer.plan(cell).recipe.most_epochs - epoch.epoch) * seconds / trained
        remark(
            f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, "
            f"validation {SCORES[epoch.score]} {epoch.valid_score:.2f}, "
            f"{rate}{epoch.seconds:.1f} s, "
            f"{timedelta(seconds=round(left))} left at most"
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
    if run.valid_threshold is not None:
        remark(
            f"threshold best on valid: {run.valid_threshold:g}, with a mean IoU of "
            f"{summary['valid_iou_at_threshold']:.2f}"
        )
    if run.min_region is not None:
        remark(
            f"minimum size of regions best on valid: {run.min_region:.2%} of the image, with a "
            f"mean IoU of {summary['valid_iou_at_min_region']:.2f}"
        )
    if run.score_threshold is not None:
        remark(
            f"threshold of image scores best on valid: {run.score_threshold:.6g}, with a balanced "
            f"accuracy of {summary['valid_balanced_accuracy']:.2f}"
        )
    elif trained:
        remark("no threshold of image scores: the split valid has no real image")
    if run.problem is not None:
        remark(f"remark: {run.problem}")
    for layer, weight in summary.get("layer_weights", {}).items():
        remark(f"weight of {layer}: {weight:.3f}")
    result(str(run.path))
