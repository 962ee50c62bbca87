"""`declip-pipe ablate`: one decoder on every layer of a store, evaluated in and out of domain."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    DATA,
    OUTPUT,
    FigureFormatOption,
    ForPaperOption,
    PaperColumnsOption,
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
    from declip_pipeline.study.layer_choice import LayerRound


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
        "help": "Highest learning rate, of the schedule plateau the first.",
        "one_because": "layers are compared",
    },
    seed={"help": "Seeds, comma-separated."},
)
def ablate(
    stores: StoresArgument,
    asked: Mapping[str, Any],
    greedy: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=DATA,
            help="Also join up to N layers: the best one with each other, the best pair with each "
            "other, and so on, each chosen by its score on the split valid. Says which to store.",
        ),
    ] = 1,
    split: Annotated[str, typer.Option(rich_help_panel=DATA, help="Split to evaluate.")] = "test",
    dask: DaskOption = None,
    scheduler: SchedulerOption = None,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    paper_columns: PaperColumnsOption = None,
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

    With --greedy 3, pairs and triples of layers are trained as well, and the sets on the greedy
    path evaluated: the score on valid, its gain and what a set takes on disk are printed, and all
    sets that were tried are in layer_sets.csv. The test split has no part in the choice.
    """
    from declip_pipeline.evaluation.metrics import PROTOCOL
    from declip_pipeline.evaluation.selection import CALIBRATION
    from declip_pipeline.store.reader import Store
    from declip_pipeline.study.ablation import (
        ablation_table,
        best_layers,
        layer_scores,
        write_scores,
    )
    from declip_pipeline.study.layer_choice import choose_layers, write_layer_sets
    from declip_pipeline.study.steps import EvaluationStep, TrainingStep
    from declip_pipeline.study.study import Study
    from declip_pipeline.training.learning import MARK_MEANING
    from stages.report import failed_rows, write_page
    from stages.screen import remark, result
    from stages.study_screen import callbacks

    style = figure_style(figure_format, for_paper, paper_columns)
    require_folder(Path(asked["runs"]), "-o")
    if greedy > 1 and split == CALIBRATION:
        raise InputError(
            f"--greedy {greedy} chooses layers on the split {CALIBRATION}, and --split evaluates "
            "them there; evaluate on another split, such as test"
        )
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
    rounds = choose_layers(study, greedy)
    folder = Path(made[0]).parent
    # Of joined layers, those that were chosen: the choice was made without the test split.
    chosen = [one.chosen for one in rounds[1:] if one.chosen is not None]
    rows = [row for one in (*rounds[0].sets, *chosen) for row in one.rows]
    finished = [row for row in rows if row.run is not None]
    evaluations: dict[str, list[Evaluation]] = {row.layer: [] for row in rows}
    for row, evaluation in zip(finished, study.evaluate(rows), strict=True):
        evaluations[row.layer].append(evaluation)
    scores = layer_scores(evaluations)
    write_scores(folder / "ablation.csv", scores)
    result(f"{ablation_table(scores)}\nIoU {PROTOCOL}")
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
        title = _title(asked["decoder_type"][0], len(asked["seed"]))
        figure = _draw(scores, rounds, folder / "ablation.png", title, style)
        result(best_layers(scores))
        if greedy > 1:
            write_layer_sets(folder / "layer_sets.csv", rounds)
            _say_choice(rounds, sum(map(len, opened)), "tiles" if opened[0].tiling else "images")
        result(str(figure))
    if any(row.state == "failed" for one in rounds for some in one.sets for row in some.rows):
        raise typer.Exit(1)


def _kind(store: "Store") -> tuple[str, str]:
    return store.identity.view, store.identity.dtype


def _say_choice(rounds: "Sequence[LayerRound]", count: int, rows: str) -> None:
    """Print the greedy path, and the set to store.

    Args:
        rounds: The rounds.
        count: Number of rows of the stores.
        rows: What a row is: "images", "tiles".
    """
    from declip_pipeline.study.layer_choice import gain, path_of, set_to_store
    from stages.screen import result
    from stages.table import format_table

    best = set_to_store(rounds)
    if best is None:
        return
    lines: list[list[str]] = []
    path = path_of(rounds)
    for number, one in enumerate(path):
        gained = "-"
        if number:
            mean, error = gain(one, path[number - 1])
            gained = f"{mean:+.2f}" + ("" if isnan(error) else f" ± {error:.2f}")
        sizes = f"{one.bytes_per_row / 1e6:.3g}", f"{one.total_bytes / 1e9:.3g}"
        lines.append([one.name, f"{one.score:.2f}{one.mark}", gained, *sizes])
    one_row = {"images": "an image", "tiles": "a tile"}[rows]
    header = ["greedy choice", "IoU on valid", "gain", f"MB {one_row}", "GB"]
    result(format_table(header, lines))
    why = "the best on valid" if len(best.rows) == 1 else "the smallest near the best on valid"
    result(
        f"store {best.name}, {why}: {best.bytes_per_row / 1e6:.3g} MB {one_row}, "
        f"{best.total_bytes / 1e9:.3g} GB for the {count} {rows} of these stores "
        f"(`extract --layers {','.join(best.layers)}`)"
    )


def _title(decoder_type: str, seeds: int) -> str:
    over = f" ({seeds} seeds)" if seeds > 1 else ""
    return f"{decoder_type}: IoU by layer{over}"


def _draw(
    scores: "Sequence[LayerScore]",
    rounds: "Sequence[LayerRound]",
    path: Path,
    title: str,
    style: "FigureStyle",
) -> Path:
    from declip_pipeline.reports.domain_figure import draw_domains
    from declip_pipeline.study.ablation import path_table, score_table

    singles = [one.name for one in rounds[0].sets]
    return draw_domains(
        score_table(scores, singles),
        path,
        title,
        "IoU (percent)",
        connected=True,
        beside=path_table(scores, rounds) if len(rounds) > 1 else None,
        style=style,
    )
