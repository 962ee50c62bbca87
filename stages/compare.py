"""`declip-pipe compare`: compare two runs on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.options import (
    DATA,
    BatchSizeOption,
    DeviceOption,
    MapsAreOption,
    MapsKeyOption,
    ResizeMapsOption,
    comma_separated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from declip_pipeline.evaluation.compare import ComparedMeans
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource

_HELP = (
    "A run that `train` printed, or several that differ in their seed only, comma-separated; "
    "RUN+RUN+... is the mean of their logits, NAME=FOLDER maps of another tool."
)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help=_HELP)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help=_HELP)],
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
    maps_are: MapsAreOption = "probabilities",
    resize_maps: ResizeMapsOption = False,
    maps_key: MapsKeyOption = None,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
) -> None:
    """Say by how much RUN_A is better than RUN_B on the images that both were evaluated on.

    Prints for each generator, and for all, the means of IoU (percent), F1 and AP, their difference
    A - B with its interval of 95% and a two-sided p-value, from a bootstrap of the same images
    for both (scenes are drawn, and seeds, where a side has several); p is not corrected for how
    many there are. Images are the same when id and content are. What `evaluate` wrote of the same
    weights on the same store is taken; else the run is evaluated.
    """
    from declip_pipeline.evaluation.compare import compare as compare_runs
    from stages.figures_texts import remark_problems, remark_repeated
    from stages.map_sources import (
        images_on,
        remark_findings,
        repeated_runs,
        require_maps,
        runs_of,
    )
    from stages.screen import progress, remark, result

    how = {"maps_are": maps_are, "resize_maps": resize_maps, "maps_key": maps_key}
    sides = [_sources(run_a, how), _sources(run_b, how)]
    sources = [one for side in sides for one in side]
    require_maps(sources, how)
    images = images_on(on, sources, [split])
    with progress("evaluating", "runs") as tell:
        found = compare_runs(
            sides[0],
            sides[1],
            images,
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
    for name, side in (("A", found.first), ("B", found.second)):
        result(f"{name}: {', '.join(str(one.run) for one in side)}")
    result(f"{split} split\n{_table(found.means)}")
    count = sum(row.difference.p_value == row.difference.p_value for row in found.means)
    result(f"p is not corrected for the {count} comparisons above; choose one beforehand")
    for run, number in found.left_out.items():
        remark(f"left out, not evaluated for both: {number} of {run}")
    if remark_findings([*found.first, *found.second]):
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


def _table(rows: "Sequence[ComparedMeans]") -> str:
    from declip_pipeline.evaluation.scores import METRICS
    from declip_pipeline.reports.matrix import interval_text
    from stages.table import format_table

    cells = []
    for row in rows:
        metric = METRICS[row.metric]
        decimals = metric.decimals
        difference = row.difference
        interval = interval_text(*difference.interval, decimals).strip() or "-"
        p_value = "-" if difference.p_value != difference.p_value else f"{difference.p_value:.4f}"
        cells.append(
            [
                row.generator,
                row.images,
                metric.title,
                f"{row.first:.{decimals}f}",
                f"{row.second:.{decimals}f}",
                f"{difference.value:+.{decimals}f}",
                interval,
                p_value,
            ]
        )
    header = ["generator", "images", "metric", "A", "B", "A - B", "95% interval", "p"]
    return format_table(header, cells)
