"""`declip-pipe compare`: compare runs on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.options import (
    DATA,
    OUTPUT,
    BatchSizeOption,
    CostOption,
    DeviceOption,
    MapsAreOption,
    MapsKeyOption,
    ResizeMapsOption,
    comma_separated,
    require_folder,
)

if TYPE_CHECKING:
    from declip_pipeline.evaluation.compare import Comparison
    from declip_pipeline.evaluation.cost import RunCost
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.evaluation.scores import Task


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Runs that `train` printed, at least two; each may be several that differ in "
            "their seed only, comma-separated.",
        ),
    ],
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="STORE|DATA",
            help="Store to evaluate on, or between folders of maps a dataset; repeatable. Each run "
            "takes those with its own features.",
        ),
    ],
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            help="For decoders of several backbones: a store of another one; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    generators: Annotated[
        str | None,
        typer.Option(help="Generators to evaluate, comma-separated. Default: all of the stores."),
    ] = None,
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Compare how well whole images are told apart, fake and real ones, by the mean of "
            "their maps; the threshold of the accuracy is chosen on the split valid.",
            rich_help_panel=DATA,
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Metrics to compare, comma-separated, or all. Default: of two runs those that "
            "`evaluate` prints, with --detection all; of more IoU, with --detection AP.",
        ),
    ] = None,
    cost: CostOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder for comparison.md, ranking.csv and pairs.csv, which have every generator.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    maps_are: MapsAreOption = "probabilities",
    resize_maps: ResizeMapsOption = False,
    maps_key: MapsKeyOption = None,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
) -> None:
    """Say by how much runs are better than each other on the images that all were evaluated on.

    Of two runs, prints for each generator, and for all, means in percent of IoU, F1, AP and AUC,
    their difference A - B with its interval of 95% and a two-sided p-value. Of more, prints for
    all generators together the runs by rank, with the intervals of their means and ranks, and the
    differences of all pairs, with p-values that are corrected for the number of pairs (Holm).

    All are of one bootstrap of the same images for every run: scenes are drawn, and seeds, where
    a run has several. P-values are not corrected for how many metrics and generators there are.
    Images are the same when id and content are. What `evaluate` wrote of the same weights on the
    same store is taken; else the run is evaluated.
    """
    from declip_pipeline.evaluation.compare import compare as compare_runs
    from declip_pipeline.evaluation.cost import CostMeter
    from declip_pipeline.evaluation.selection import CALIBRATION
    from declip_pipeline.reports.comparison import side_lines, side_names, write_comparison
    from stages.figures_texts import cost_text, remark_problems, remark_repeated
    from stages.map_sources import (
        images_on,
        remark_findings,
        remark_no_cost,
        repeated_runs,
        require_maps,
        runs_of,
    )
    from stages.screen import progress, remark, result

    if out is not None:
        require_folder(out, "-o")
    task: Task = "detection" if detection else "localization"
    chosen = comma_separated(metrics)
    if chosen is None and len(runs) > 2:
        chosen = ["ap" if detection else "iou"]
    how = {"maps_are": maps_are, "resize_maps": resize_maps, "maps_key": maps_key}
    sides = [_sources(one, how) for one in runs]
    sources = [one for side in sides for one in side]
    require_maps(sources, how)
    images = images_on(on, sources, [split, CALIBRATION] if detection else [split])
    with progress("evaluating", "runs") as tell:
        found = compare_runs(
            sides,
            images,
            task=task,
            metrics=chosen,
            split=split,
            generators=comma_separated(generators),
            beside=beside or [],
            batch_size=batch_size,
            device=device,
            progress=tell,
            on_evaluation=_keep,
        )
    remark_repeated([*repeated_runs(sources), *found.repeated])
    remark_problems(runs_of(sources))
    for line in side_lines(found):
        result(line)
    costs: dict[int, RunCost] = {}
    if cost:
        remark_no_cost(sources)
        meter = CostMeter(device)
        members = [runs_of(side[:1]) for side in sides]
        costs = {number: meter.of(*some) for number, some in enumerate(members) if some}
    _print_means(found, split)
    if costs:
        result(cost_text([(side_names(found)[side], one) for side, one in costs.items()]))
    for name, lacking in found.lacking.items():
        letters = ", ".join(side_names(found)[side] for side in lacking)
        remark(f"left out, no values of it for {letters}: {name}")
    for run, number in found.left_out.items():
        remark(f"left out, not evaluated for {_all_of(found)}: {number} of {run}")
    if out is not None:
        named = {"title": "Comparison of runs", "split": split}
        result(str(write_comparison(out, found, **named, costs=costs)))
    if remark_findings([one for side in found.sides for one in side]):
        raise typer.Exit(1)


def _keep(evaluation: "Evaluation") -> None:
    """Save an evaluation for the next command, where the run's folder can be written into."""
    from declip_pipeline.evaluation.files import kept_in
    from stages.screen import remark

    try:
        evaluation.save()
    except OSError as error:
        place = kept_in(evaluation.run, evaluation.config)
        remark(f"not kept for the next command: {place}: {error.strerror}")


def _sources(text: str, how: dict[str, Any]) -> "list[MapSource]":
    """Return maps, a run, or several; the name of an existing folder may hold commas."""
    from stages.map_sources import is_maps, map_folders, run_source

    if is_maps(text):
        return map_folders([text], **how)

    texts = [text] if Path(text).exists() else comma_separated(text, repeats=True) or []
    return [run_source(one) for one in texts]


def _all_of(found: "Comparison") -> str:
    return "both" if len(found.sides) == 2 else "all"


def _print_means(found: "Comparison", split: str) -> None:
    """Print two sides in one table, more by rank and pair, of all generators together."""
    from declip_pipeline.evaluation.evaluation import OVERALL
    from declip_pipeline.evaluation.pairs import metrics_of
    from declip_pipeline.reports.comparison import pair_rows, ranking_rows, side_names
    from stages.screen import result
    from stages.table import format_table

    if len(found.sides) == 2:
        result(f"{split} split\n{_caption(found)}\n{_table_of_two(found)}")
        count = sum(one.difference.p_value == one.difference.p_value for one in found.pairs)
        result(f"p is not corrected for the {count} comparisons above; choose one beforehand")
        return
    known = metrics_of(found.sides[0][0].task)
    result(_caption(found))
    shown = OVERALL if any(one.generator == OVERALL for one in found.means) else None
    for name in dict.fromkeys(one.metric for one in found.means):
        means = [o for o in found.means if o.metric == name and shown in (None, o.generator)]
        pairs = [o for o in found.pairs if o.metric == name and shown in (None, o.generator)]
        result(
            f"\n{known[name].meaning} (percent), {split} split, {means[0].generator}, "
            f"{means[0].images} images"
        )
        names = side_names(found)
        for head, *rows in (
            ranking_rows(means, known[name], names),
            pair_rows(pairs, known[name], names),
        ):
            result(format_table(head, rows))
    result(
        "p by Holm is corrected for the pairs of a table; choose metric and generators beforehand"
    )


def _caption(found: "Comparison") -> str:
    from stages.figures_texts import caption_of

    is_detection = found.sides[0][0].task == "detection"
    return caption_of([] if is_detection else dict.fromkeys(one.metric for one in found.means))


def _table_of_two(found: "Comparison") -> str:
    from declip_pipeline.evaluation.pairs import metrics_of
    from declip_pipeline.reports.comparison import DECIMALS, difference_cells, side_names
    from stages.table import format_table

    known = metrics_of(found.sides[0][0].task)
    cells = []
    for pair in found.pairs:
        metric = known[pair.metric]
        means = [found.mean(side, pair.metric, pair.generator).value for side in pair.sides]
        cells.append(
            [
                *(pair.generator, pair.images, metric.title),
                *(f"{metric.percent * mean:.{DECIMALS}f}" for mean in means),
                *difference_cells(pair, metric),
            ]
        )
    header = ["generator", "images", "metric", *side_names(found), "A - B", "95% interval", "p"]
    return format_table(header, cells)
