"""`declip-pipe ablate`: one decoder on every layer of a store, evaluated in and out of domain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import InputError
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
    EpochsOption,
    Fusion,
    FusionOption,
    Initialization,
    InitializationOption,
    MicroBatchOption,
    PatienceOption,
    PrecisionOption,
    RunsOption,
    StepOption,
    TensorboardOption,
    TrainingPrecision,
    WidthsOption,
    beside_of,
    learning_rates_of,
    seeds_of,
    widths_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.ablation import LayerScore


def ablate(
    stores: StoresArgument,
    decoder_type: Annotated[
        str,
        typer.Option(
            help="linear, attention, conv-4, conv-12, conv-20, probe (scikit-learn on patches) or "
            "probe-pca-64."
        ),
    ] = "linear",
    layers: Annotated[
        str, typer.Option(help="Layers to compare: all, names, or numbers (0-23).")
    ] = "all",
    train_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Generators to learn from, comma-separated; given again, another training set. "
            "Default: each generator by itself."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    beside: BesideOption = None,
    fusion: FusionOption = Fusion.concat,
    widths: WidthsOption = None,
    initialization: InitializationOption = Initialization.paper,
    epochs: EpochsOption = 400,
    batch_size: StepOption = 64,
    micro_batch_size: MicroBatchOption = None,
    learning_rate: Annotated[
        str,
        typer.Option(
            "--learning-rate", "--lr", help="First learning rate; a tenth at each plateau."
        ),
    ] = "1e-3",
    patience: PatienceOption = 5,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="Seeds, comma-separated.")] = "0",
    precision: PrecisionOption = TrainingPrecision.auto,
    compiled: CompileOption = False,
    runs: RunsOption = Path("runs"),
    device: DeviceOption = Device.auto,
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    tensorboard: TensorboardOption = False,
) -> None:
    """Train a decoder on every layer and say which one is good for what.

    Each layer, training set and seed is a run, as `train` makes them, and found again by it. They
    are evaluated on the test split: in domain on the generators that they learned, out of domain on
    the others. Prints IoU (percent) by layer with its standard deviation over seeds and its 95%
    bootstrap interval over images and seeds; the last line of stdout is the figure, with
    ablation.csv and the runs' results.csv beside it.
    """
    from declip_pipeline.evaluation.evaluate import EVALUATIONS
    from declip_pipeline.evaluation.evaluate import evaluate as evaluate_run
    from declip_pipeline.evaluation.selection import Selection
    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.ablation import layer_scores, write_scores
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
    from stages.screen import progress, remark, result

    require_folder(runs, "-o")
    workers = asked_workers(dask, scheduler, device.value)
    opened = [Store(path) for path in stores]
    # Augmented views have no such split. What cannot be evaluated is refused before hours of
    # training.
    tested = [store for store in opened if split in store.splits] or opened[:1]
    for store in tested[1:]:
        if _kind(store) != _kind(tested[0]):
            remark(f"not evaluated, of another view or dtype than the first: {store.location}")
    tested = [store for store in tested if _kind(store) == _kind(tested[0])]
    Selection(tested, split=split)
    rates = learning_rates_of(learning_rate)
    if len(rates) != 1:
        raise InputError(f"--learning-rate {learning_rate!r}; expected one, layers are compared")
    generators = sorted({name for store in opened for name in store.generators})
    sets = [tuple(comma_separated(text) or []) for text in train_on or []]
    cells = grid_cells(
        layers_of(layers, stores[0]),
        [decoder_type],
        seeds_of(seeds),
        rates,
        sets or [(name,) for name in generators],
    )
    job = GridJob(
        stores=tuple(stores),
        runs=str(runs),
        recipe=Recipe(
            decoder_type=decoder_type,
            widths=widths_of(widths),
            initialization=initialization.value,
            epochs=epochs,
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            patience=patience,
            compile=compiled,
        ),
        precision=precision.value,
        beside=beside_of(beside),
        fusion=fusion.value,
        device=own_device(device.value, workers),
        tensorboard=tensorboard,
    )
    trainer = open_trainer(job, cells)
    folder, rows = train_grid(trainer, cells, workers)
    finished = [row.run for row in rows if row.run is not None]
    evaluations = {}
    others = [Store(place) for place, _ in job.beside]
    with progress("evaluating", "runs") as tell:
        for number, run in enumerate(finished):
            tell(number, len(finished))
            evaluation = evaluate_run(
                run,
                tested,
                split=split,
                beside=others,
                device=trainer.data.device,
                reuse=True,
            )
            evaluation.save(Path(run) / EVALUATIONS)
            evaluations[run] = evaluation
        tell(len(finished), len(finished))
    scores = layer_scores(rows, evaluations)
    write_scores(folder / "ablation.csv", scores)
    result(_table(scores))
    if finished:
        _draw(scores, folder / "ablation.png", decoder_type, len(seeds_of(seeds)))
        result(str(folder / "ablation.png"))
    if len(finished) < len(rows):
        raise typer.Exit(1)


def _kind(store: "Store") -> tuple[str, str]:
    return store.identity.view, store.identity.dtype


def _table(scores: "Sequence[LayerScore]") -> str:
    domains = list(dict.fromkeys(score.domain for score in scores))
    layers = list(dict.fromkeys(score.layer for score in scores))
    cell = {(score.layer, score.domain): _shown(score) for score in scores}
    width = max(len(name) for name in ["layer", *layers])
    lines = [f"{'layer':{width}}" + "".join(f"{name:>29}" for name in domains)]
    for layer in layers:
        cells = "".join(f"{cell[layer, domain]:>29}" for domain in domains)
        lines.append(f"{layer:{width}}{cells}")
    return "\n".join(lines)


def _shown(score: "LayerScore") -> str:
    from declip_pipeline.reports.matrix import interval_text

    one = score.estimate
    if not one.cells:
        return "-"
    spread = f" ± {one.spread:.2f}" if len(one.by_seed) > 1 else ""
    return f"{one.value:.2f}{spread}{interval_text(*one.interval, 1)}"


def _draw(scores: "Sequence[LayerScore]", path: Path, decoder_type: str, seeds: int) -> None:
    from declip_pipeline.reports.layer_curve_figure import draw_layer_curve

    layers = list(dict.fromkeys(score.layer for score in scores))
    tested = [score for score in scores if score.estimate.cells]
    domains = list(dict.fromkeys(score.domain for score in tested))
    found = {(score.layer, score.domain): score for score in tested}

    def values(domain: str, what: str) -> list[float]:
        return [
            getattr(found[layer, domain].estimate, what)
            if (layer, domain) in found
            else float("nan")
            for layer in layers
        ]

    over = f" ({seeds} seeds)" if seeds > 1 else ""
    draw_layer_curve(
        layers,
        {domain: values(domain, "value") for domain in domains},
        path,
        f"{decoder_type}: IoU by layer{over}",
        spreads={domain: values(domain, "spread") for domain in domains},
    )
