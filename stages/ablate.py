"""`declip-pipe ablate`: one decoder on every layer of a store, evaluated in and out of domain."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.options import (
    DATA,
    OUTPUT,
    ColumnsOption,
    FigureFormatOption,
    ForPaperOption,
    SchedulerOption,
    StoresArgument,
    figure_style,
    require_folder,
)
from stages.training_options import DaskOption, grid_options, with_training_options

if TYPE_CHECKING:
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.reports.figure_file import FigureStyle
    from declip_pipeline.store.reader import Store
    from declip_pipeline.study.ablation import LayerScore


@with_training_options(
    *("detection", "pooling", "initial_weights", "uncached"),
    layer={"default": "all", "help": "Layers to compare: all, names, or numbers (0-23)."},
    decoder_type={
        "default": "linear",
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
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    columns: ColumnsOption = None,
    images: Annotated[
        int, typer.Option(min=0, help="Most images in the report.", rich_help_panel=OUTPUT)
    ] = 200,
) -> None:
    """Train a decoder on every layer and say which one is good for what.

    Each layer, training set and seed is a run, as `train` makes them, and found again by it. They
    are evaluated on the test split: in domain on the generators that they learned, out of domain on
    the others. Prints IoU (percent) by layer and generator with its standard deviation over seeds
    and its 95% bootstrap interval over images and seeds, then the layers that are best; the last
    line of stdout is the figure, with ablation.csv, the runs' results.csv and report.html (see
    `declip-pipe report`) beside it.
    """
    from declip_pipeline.store.reader import Store
    from declip_pipeline.study.ablation import (
        ablation_table,
        best_layers,
        layer_scores,
        write_scores,
    )
    from declip_pipeline.study.study import EvaluationStep, Study, TrainingStep
    from declip_pipeline.training.learning import MARK_MEANING
    from stages.report import failed_rows, write_page
    from stages.screen import remark, result
    from stages.study_screen import callbacks

    style = figure_style(figure_format, for_paper, columns)
    require_folder(Path(asked["runs"]), "-o")
    opened = [Store(path) for path in stores]
    # Augmented views have no such split.
    tested = [store for store in opened if split in store.splits] or opened[:1]
    for store in tested[1:]:
        if _kind(store) != _kind(tested[0]):
            remark(f"not evaluated, of another view or dtype than the first: {store.location}")
    tested = [store for store in tested if _kind(store) == _kind(tested[0])]
    generators = sorted({name for store in opened for name in store.generators})
    sets = asked["train_on"] or [(name,) for name in generators]
    options = grid_options({**asked, "train_on": sets})
    made: list[str] = []
    study = Study(
        trainings=(TrainingStep(tuple(opened), options, dask=dask, scheduler=scheduler),),
        test=EvaluationStep(
            tuple(tested),
            split=split,
            beside=tuple(place for place, _ in asked["beside"]),
        ),
        # This process may lack what workers have.
        device="auto" if dask or scheduler else asked["device"],
        callbacks=replace(callbacks, made=made.append),
    )
    # What cannot be evaluated is refused before hours of training.
    study.check()
    rows = study.train()
    folder = Path(made[0]).parent
    finished = [row for row in rows if row.run is not None]
    evaluations: dict[str, list[Evaluation]] = {row.layer: [] for row in rows}
    for row, evaluation in zip(finished, study.evaluate(rows), strict=True):
        evaluations[row.layer].append(evaluation)
    scores = layer_scores(evaluations)
    write_scores(folder / "ablation.csv", scores)
    result(ablation_table(scores))
    if any(score.estimate.mark for score in scores):
        result(MARK_MEANING)
    if finished:
        write_page(
            folder / "report.html",
            [one for own in evaluations.values() for one in own],
            f"Layers of {', '.join(dict.fromkeys(store.dataset for store in opened))}",
            images=images,
            left_out=failed_rows(rows),
            device=asked["device"],
        )
        result(best_layers(scores))
        result(str(_draw(scores, folder, asked["decoder_type"][0], len(asked["seed"]), style)))
    if len(finished) < len(rows):
        raise typer.Exit(1)


def _kind(store: "Store") -> tuple[str, str]:
    return store.identity.view, store.identity.dtype


def _draw(
    scores: Sequence["LayerScore"],
    folder: Path,
    decoder_type: str,
    seeds: int,
    style: "FigureStyle",
) -> Path:
    from declip_pipeline.reports.layer_curve_figure import draw_layer_curve
    from declip_pipeline.study.ablation import NAMES, means_of_layers

    means = {domain: means_of_layers(scores, domain) for domain in NAMES.values()}
    tested = {name: own for name, own in means.items() if any(one.cells for one in own.values())}
    over = f" ({seeds} seeds)" if seeds > 1 else ""
    marks: dict[str, str] = {}
    for score in scores:
        marks[score.layer] = max(marks.get(score.layer, ""), score.estimate.mark)
    return draw_layer_curve(
        [layer + marks[layer] for layer in dict.fromkeys(score.layer for score in scores)],
        {name: [one.value for one in own.values()] for name, own in tested.items()},
        folder / "ablation.png",
        f"{decoder_type}: IoU by layer{over}",
        spreads={name: [one.spread for one in own.values()] for name, own in tested.items()},
        style=style,
    )
