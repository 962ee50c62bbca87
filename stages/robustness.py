"""Robustness of runs on the screen and in files: `declip-pipe evaluate --views`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.options import comma_separated

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.evaluation.robustness import Robustness
    from declip_pipeline.evaluation.selection import Selection
    from declip_pipeline.images.views import View
    from declip_pipeline.reports.figure_file import FigureStyle

ALL = "all"


def evaluate_robustness(
    sources: "Sequence[MapSource]",
    selection: "Selection",
    views: str,
    folders: "Mapping[Path, Path]",
    *,
    metric: str,
    device: "torch.device",
    batch_size: int,
    style: "FigureStyle",
) -> "list[Evaluation]":
    """Evaluate maps on views of stores and leave a table and a figure in the folder of each source.

    Returns the evaluations of all images.

    All views of all stores are looked for and checked before the first is evaluated.
    """
    from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
    from declip_pipeline.evaluation.robustness import (
        check_views,
        evaluate_views,
        named_figures,
        open_views,
        over_seeds,
    )
    from declip_pipeline.images.views import parse_views
    from declip_pipeline.reports.robustness_figure import draw_robustness
    from declip_pipeline.reports.robustness_panels import ROBUSTNESS_FILE, read_panels
    from declip_pipeline.training.learning import MARK
    from stages.figures_texts import caption_of, seeds_title
    from stages.screen import progress, remark, result

    split = selection.split
    by_view = f"{LOCALIZATION_METRICS[metric].meaning} (percent) by view"
    asked = None if views == ALL else parse_views(comma_separated(views) or [])
    opened = [open_views(part.store, asked, sources, selection.beside) for part in selection.parts]
    for part, own in zip(selection.parts, opened, strict=True):
        check_views(sources, own, split=split, generators=part.generators)
    by_store: list[list[Robustness]] = []
    for part, own in zip(selection.parts, opened, strict=True):
        by_store.append([])
        for source in sources:
            name = f"{source.name} on {part.store.dataset}"
            with progress(name, "views") as tell:
                found = evaluate_views(
                    source,
                    part.store,
                    split=split,
                    generators=part.generators,
                    device=device,
                    batch_size=batch_size,
                    progress=tell,
                    opened=own,
                )
            by_store[-1].append(found)
            # The clean view is the first.
            folder, *_ = [one.save(folders[source.path])[0] for one in found.complete]
            figured = [(view, named_figures([one])) for view, one in found.views]
            title = f"{name}{MARK if source.problem else ''}, {split}"
            result(f"{title}: {by_view}\n{caption_of([metric])}\n{views_table(figured, metric)}")
            if found.left_out:
                remark(f"{name}: left out, not in every view: {found.left_out} images")
            found.save(folder / ROBUSTNESS_FILE)
            panels = read_panels(folder / ROBUSTNESS_FILE, metric)
            shown = folder / ROBUSTNESS_FILE
            if panels:
                unit = f"{LOCALIZATION_METRICS[metric].title} (percent)"
                shown = draw_robustness(panels, folder / "robustness.png", title, style, unit)
            result(str(shown))
    for some in by_store:
        for group, figured in over_seeds(some):
            title = seeds_title(group, split)
            result(f"{title}: {by_view}\n{caption_of([metric])}\n{views_table(figured, metric)}")
    return [one for some in by_store for found in some for one in found.complete]


def views_table(
    figured: "Sequence[tuple[View, Mapping[str, Mapping[str, Any]]]]", metric: str
) -> str:
    """Return a line for each view, a column for each generator: mean ± spread [interval]."""
    from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
    from declip_pipeline.evaluation.robustness import view_text
    from stages.figures_texts import percent_text
    from stages.table import format_table

    factor = LOCALIZATION_METRICS[metric].percent

    rows = []
    for view, figures in figured:
        cells = [
            "-" if found[metric] is None else percent_text(found, metric, factor, ends=1)
            for found in figures.values()
        ]
        rows.append([view_text(view), *cells])
    return format_table(["view", *figured[0][1]], rows)
