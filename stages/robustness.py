"""What `declip-pipe evaluate --views` does: judge runs on other views of a store's pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.options import comma_separated

if TYPE_CHECKING:
    from declip_pipeline.evaluation.figures import Figures
    from declip_pipeline.images.views import View
    from declip_pipeline.reports.robustness_figure import RobustnessPanel
    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.cross_evaluation import Evaluation
    from declip_pipeline.training.run_folder import RunFolder

ALL = "all"
_TITLES = {
    "jpeg": "JPEG, quality",
    "blur": "blur, sigma in pixels",
    "resize": "resize, factor",
    "noise": "noise, deviation of 255",
    "jitter": "color jitter, share",
}

Judged = Sequence[tuple["View", "Evaluation"]]


def judge_views(
    runs: "Sequence[RunFolder]",
    stores: "Sequence[Store]",
    views: str,
    *,
    split: str,
    generators: Sequence[str] | None,
    beside: "Sequence[Store]",
    options: Mapping[str, Any],
) -> None:
    """Judge runs on views of stores and leave a table and a figure in each run's folder.

    `options` are `evaluate_run`'s that say how to compute. All views of all stores are looked for
    and checked before the first is judged.
    """
    from declip_pipeline.images.views import parse_view
    from declip_pipeline.reports.robustness_figure import draw_robustness
    from declip_pipeline.sweeps.cross_evaluation import evaluate_run, plan_evaluations
    from declip_pipeline.sweeps.robustness import (
        named_figures,
        open_views,
        view_text,
        write_robustness,
    )
    from stages.screen import progress, result

    asked = None if views == ALL else [parse_view(text) for text in comma_separated(views) or []]
    plan = plan_evaluations(runs, stores, split=split, generators=generators, beside=beside)
    views_of = {one.location: open_views(one, asked, runs, beside) for _, one, _ in plan}
    work = [
        (run, store, own, *opened)
        for run, store, own in plan
        for opened in views_of[store.location]
    ]
    for run, _, own, _, seen, others in work:
        plan_evaluations([run], [seen], split=split, generators=own, beside=others)
    judged: dict[tuple[str, str], list[tuple[View, Evaluation]]] = {}
    for run, store, own, view, seen, others in work:
        with progress(f"{run.path.name} on {store.dataset}, {view_text(view)}") as tell:
            evaluation = evaluate_run(
                run,
                seen,
                split=split,
                generators=own,
                beside=others,
                progress=tell,
                **options,
            )
        judged.setdefault((str(run.path), store.location), []).append((view, evaluation))
    for found in judged.values():
        clean = found[0][1]
        table = views_table(
            [(view, named_figures(one.figures, one.overall)) for view, one in found]
        )
        name = f"{clean.run.name} on {clean.dataset}, {split}"
        result(f"{name}: IoU (percent) by view\n{table}")
        write_robustness(clean.folder / "robustness.csv", found)
        panels = panels_of(found)
        if panels:
            draw_robustness(panels, clean.folder / "robustness.png", name)
        result(str(clean.folder / ("robustness.png" if panels else "robustness.csv")))
    for location in views_of:
        _show_over_seeds([found for (_, own), found in judged.items() if own == location], split)


def _show_over_seeds(judged: "Sequence[Judged]", split: str) -> None:
    """A table for runs on the views of one store that differ in their seed only, of several."""
    from declip_pipeline.sweeps.robustness import named_figures, views_over_seeds
    from declip_pipeline.sweeps.seed_groups import figures_over_seeds
    from stages.figures_texts import seeds_title
    from stages.screen import result

    for group in views_over_seeds(judged):
        figured = [(view, named_figures(*figures_over_seeds(some))) for view, some in group]
        title = seeds_title(group[0][1], split)
        result(f"{title}: IoU (percent) by view\n{views_table(figured)}")


def views_table(figured: "Sequence[tuple[View, Mapping[str, Figures]]]") -> str:
    """A line for each view, a column for each generator: mean ± deviation of seeds [interval]."""
    from declip_pipeline.reports.matrix import interval_text
    from declip_pipeline.sweeps.robustness import view_text
    from stages.cache.table import format_table

    rows = []
    for view, figures in figured:
        cells = []
        for found in figures.values():
            spread = found.get("iou_spread")
            shown = "" if spread is None else f" ± {spread:.2f}"
            interval = interval_text(found["iou_low"], found["iou_high"], 1)
            cells.append("-" if found["iou"] is None else f"{found['iou']:.2f}{shown}{interval}")
        rows.append([view_text(view), *cells])
    return format_table(["view", *figured[0][1]], rows)


def panels_of(judged: Judged) -> "list[RobustnessPanel]":
    """A panel for each family of changes, from the clean pictures to those most harmed."""
    from declip_pipeline.reports.robustness_figure import RobustnessPanel
    from declip_pipeline.sweeps.robustness import FAMILIES, family_of

    panels = []
    for family in FAMILIES:
        own = [one for one in judged if (family_of(one[0]) or ("", 0))[0] == family]
        if own:
            members = [judged[0], *own]
            strengths = [f"{view.steps[0][1]:g}" for view, _ in own]
            lines = {
                name: [_point(evaluation, name) for _, evaluation in members]
                for name in judged[0][1].figures
            }
            panels.append(RobustnessPanel(_TITLES[family], ["clean", *strengths], lines))
    return panels


def _point(evaluation: "Evaluation", name: str) -> tuple[float, float, float]:
    figures = evaluation.figures[name]
    ends = [figures[key] for key in ("iou", "iou_low", "iou_high")]
    value, low, high = [float("nan") if end is None else float(end) for end in ends]
    return value, low, high
