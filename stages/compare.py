"""`declip-pipe compare`: whether one run is better than another on the same pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import (
    DATA,
    MACHINE,
    Device,
    DeviceOption,
    comma_separated,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from declip_pipeline.evaluation.localization import ImageResult
    from declip_pipeline.sweeps.run_comparison import ComparedMeans, Picture

_HELP = "A run that `train` printed, or several that differ in their seed only, comma-separated."
_TITLES = {"iou": "IoU", "f1_best": "F1 best", "f1_fixed": "F1 at 0.5", "ap": "AP"}


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help=_HELP)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help=_HELP)],
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="STORE",
            help="Store to judge on; repeatable. Each run takes those with its own features.",
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
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    generators: Annotated[
        str | None,
        typer.Option(help="Generators to judge on, comma-separated. Default: all of the stores."),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Pictures a step.",
            rich_help_panel=MACHINE,
        ),
    ] = 64,
    device: DeviceOption = Device.auto,
) -> None:
    """Say by how much RUN_A is better than RUN_B on the pictures that both were judged on.

    Prints for each generator, and for all, the means of IoU (percent), F1 and AP, their difference
    A - B with its interval of 95% and a two-sided p-value, from a bootstrap of the same pictures
    for both (scenes are drawn, and seeds, where a side has several); p is not corrected for how
    many there are. Pictures are the same when id and content
    are. What `evaluate` wrote of the same weights on the same store is taken; else it is judged.
    """
    from declip_pipeline.compute import choose_device
    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.cross_evaluation import evaluate_run
    from declip_pipeline.sweeps.run_comparison import (
        compared_means,
        plan_comparison,
        results_by_picture,
    )
    from declip_pipeline.training.run_folder import RunFolder
    from stages.screen import progress, remark, result

    chosen = choose_device(device.value)
    first, second = [[RunFolder(Path(path)) for path in _paths(text)] for text in (run_a, run_b)]
    plan = plan_comparison(
        first,
        second,
        [Store(path) for path in on],
        split=split,
        generators=comma_separated(generators),
        beside=[Store(path) for path in beside or []],
    )
    found: dict[Path, dict[Picture, ImageResult]] = {}
    for run, store, own, others in plan:
        with progress(f"{run.path.name} on {store.dataset}") as tell:
            evaluation = evaluate_run(
                run,
                store,
                split=split,
                generators=own,
                beside=others,
                device=chosen,
                batch_size=batch_size,
                reuse=True,
                progress=tell,
            )
        # Of a picture in several stores, the first counts.
        judged = results_by_picture(store, evaluation.results)
        found[run.path] = {**judged, **found.get(run.path, {})}
    rows = compared_means(*([found[run.path] for run in side] for side in (first, second)))
    for name, side in (("A", first), ("B", second)):
        result(f"{name}: {', '.join(str(run.path) for run in side)}")
    result(f"{split} split\n{_table(rows)}")
    count = sum(row.difference.p_value == row.difference.p_value for row in rows)
    result(f"p is not corrected for the {count} comparisons above; choose one beforehand")
    pictures = set.intersection(*(set(one) for one in found.values()))
    for run_path, one in found.items():
        if len(one) > len(pictures):
            remark(f"left out, not judged for both: {len(one) - len(pictures)} of {run_path}")


def _paths(text: str) -> list[str]:
    """A run's folder, or several; a folder that is there may have commas in its name."""
    return [text] if Path(text).exists() else comma_separated(text) or []


def _table(rows: "Sequence[ComparedMeans]") -> str:
    from declip_pipeline.reports.matrix import interval_text
    from stages.cache.table import format_table

    cells = []
    for row in rows:
        decimals = 2 if row.metric == "iou" else 4
        difference = row.difference
        interval = interval_text(*difference.interval, decimals).strip() or "-"
        p_value = "-" if difference.p_value != difference.p_value else f"{difference.p_value:.4f}"
        cells.append(
            [
                row.generator,
                row.images,
                _TITLES[row.metric],
                f"{row.first:.{decimals}f}",
                f"{row.second:.{decimals}f}",
                f"{difference.value:+.{decimals}f}",
                interval,
                p_value,
            ]
        )
    header = ["generator", "pictures", "metric", "A", "B", "A - B", "95% interval", "p"]
    return format_table(header, cells)
