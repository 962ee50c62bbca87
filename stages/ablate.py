"""`declip-pipe ablate`: one decoder on every layer of a store, evaluated in and out of domain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.options import DATA, SchedulerOption, StoresArgument, require_folder
from stages.screen import progress, result
from stages.training_options import DaskOption, with_training_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.ablation import LayerScore


@with_training_options(
    *("detection", "pooling", "initial_weights", "uncached"),
    layer={"default": "all", "help": "Layers to compare: all, names, or numbers (0-23)."},
    decoder_type={
        "default": "linear",
        "help": "linear, attention, conv-4, conv-12, conv-20, probe (scikit-learn on patches) or "
        "probe-pca-64.",
        "one_because": "layers are compared",
    },
    train_on={
        "help": "Generators to learn from, comma-separated; given again, another training set. "
        "Default: each generator by itself."
    },
    learning_rate={
        "help": "First learning rate; a tenth at each plateau.",
        "one_because": "layers are compared",
    },
    seed={"help": "Seeds, comma-separated."},
)
def ablate(
    stores: StoresArgument,
    asked: Mapping[str, Any],
    split: Annotated[str, typer.Option(rich_help_panel=DATA, help="Split to evaluate.")] = "test",
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
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
    from stages.grid_training import (
        asked_workers,
        job_of,
        open_trainer,
        train_grid,
    )
    from stages.screen import remark

    require_folder(Path(asked["runs"]), "-o")
    workers = asked_workers(dask, scheduler, asked["device"])
    opened = [Store(path) for path in stores]
    # Augmented views have no such split. What cannot be evaluated is refused before hours of
    # training.
    tested = [store for store in opened if split in store.splits] or opened[:1]
    for store in tested[1:]:
        if _kind(store) != _kind(tested[0]):
            remark(f"not evaluated, of another view or dtype than the first: {store.location}")
    tested = [store for store in tested if _kind(store) == _kind(tested[0])]
    Selection(tested, split=split)
    generators = sorted({name for store in opened for name in store.generators})
    sets = asked["train_on"] or [(name,) for name in generators]
    job, cells = job_of(stores, {**asked, "train_on": sets}, workers)
    trainer = open_trainer(job, cells)
    folder, rows = train_grid(trainer, cells, workers, is_named=asked["name"] is not None)
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
        _draw(scores, folder / "ablation.png", job.recipe.decoder_type, len(asked["seed"]))
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


def _draw(scores: Sequence["LayerScore"], path: Path, decoder_type: str, seeds: int) -> None:
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
