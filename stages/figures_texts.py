"""Means of evaluations as lines of text, each with its interval."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from declip_pipeline.evaluation.cells import Estimate
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.groups import Group
    from declip_pipeline.evaluation.scores import Metric
    from declip_pipeline.training.run import Run

OVERALL = "overall"

# A run's folder is named by these, and a line by what it was evaluated on.
_IN_THE_NAME = (
    *("decoder", "layer", "backbone", "pooling", "train_on", "training_stores", "fusion"),
    *("weights", "preprocessing", "widths", "dataset", "store", "ensemble", "folder"),
)


def evaluation_lines(seeds: "Sequence[Evaluation]") -> list[str]:
    """Return lines of an evaluation, or of evaluations of several seeds together."""
    from declip_pipeline.evaluation.intervals import detection_figures, localization_figures

    first = seeds[0]

    def figures(generator: str | None, score: str = "") -> dict[str, Any]:
        if len(seeds) == 1:
            return first.figures(generator, score) if score else first.figures(generator)
        own = [one if generator is None else one.of(generator) for one in seeds]
        return detection_figures(own, score) if score else localization_figures(own)

    names = first.generators
    if first.task == "localization":
        lines = localization_lines({name: figures(name) for name in names}, figures(None))
        return [*lines, *false_alarm_lines(seeds)]
    lines = []
    for score in first.scores:
        lines.append(f"  {score}:")
        lines += [_detection_line(name, figures(name, score)) for name in names]
        if len(names) > 1:
            lines.append(_detection_line("all", figures(None, score)))
    return lines


def localization_lines(
    figures: Mapping[str, Mapping[str, Any]], overall: Mapping[str, Any]
) -> list[str]:
    """Return lines by generator and, of several, for all images; more for those without a fake."""
    named = dict(figures) if len(figures) == 1 else {**figures, OVERALL: overall}
    return [line for name, found in named.items() for line in _localization_lines(name, found)]


def false_alarm_lines(seeds: "Sequence[Evaluation]") -> list[str]:
    """Return a line on the false alarms on real images, none without such images."""
    from declip_pipeline.evaluation.intervals import ALARMING, false_alarm_figures
    from declip_pipeline.reports.matrix import interval_text

    figures = false_alarm_figures(seeds)
    if not figures["real_images"]:
        return []

    def text(name: str) -> str:
        interval = interval_text(figures[f"{name}_low"], figures[f"{name}_high"], 2)
        return f"{figures[name]:.2f}%{_spread(figures, name, 2)}{interval}"

    return [
        f"  false alarms on real images at 0.5: {text('false_alarm_pixels')} of pixels, "
        f"{text('false_alarm_images')} of images, {text('large_false_alarm_images')} with more "
        f"than {ALARMING:.0%} of their pixels ({_images(figures['real_images'])})"
    ]


def seeds_title(group: "Group[Evaluation]", split: str) -> str:
    """Return a title of runs that differ in their seed alone, with what differs from the others."""
    from declip_pipeline.training.learning import MARK

    first = group.members[0]
    seeds = ", ".join(str(one.seed) for one in group.members)
    # A run's folder is named by what it is, then its seed and its hash.
    name = ", ".join(
        filter(None, [first.run.name.partition("_seed")[0], group.title(_IN_THE_NAME)])
    )
    dataset = first.stores[0].dataset
    mark = MARK if any(one.problem for one in group.members) else ""
    return f"{name}{mark} on {dataset}, {split}, over {len(group.members)} seeds ({seeds})"


def domains_line(means: "Sequence[tuple[str, Sequence[Estimate]]]") -> str:
    """Return AP and AUC in domain and out of domain, each with its number of cells.

    Args:
        means: For each domain its name, and the means of AP and of AUC.
    """
    texts = [
        f"{domain} AP {_estimate_text(ap)}, AUC {_estimate_text(auc)} "
        f"({ap.cells} cell{'' if ap.cells == 1 else 's'})"
        for domain, (ap, auc) in means
        if ap.cells
    ]
    return "; ".join(texts)


def remark_weak_maps(runs: "Sequence[Run]") -> None:
    """Say of which runs the maps were never trained on masks."""
    from stages.screen import remark

    for run in runs:
        if run.config().get("pooling") is not None:
            remark(
                f"{run.path} was trained for detection, on labels of images: its maps are weakly "
                "supervised"
            )


def remark_no_real(runs: "Sequence[Run]") -> None:
    """Say which runs of localization never saw a real image."""
    from stages.screen import remark

    for run in runs:
        config = run.config()
        if config.get("pooling") is None and not config.get("with_real"):
            remark(
                f"{run.path} never saw a real image in training: what it calls fake in real images "
                "is not known to be little (`evaluate` says how much, `train --with-real` learns "
                "from some)"
            )


def remark_problems(runs: "Sequence[Run]") -> None:
    """Say which runs learned nothing."""
    from stages.screen import remark

    for run in runs:
        if run.problem is not None:
            remark(f"{run.path}: {run.problem}")


def remark_repeated(places: Collection[object]) -> None:
    """Say which runs or stores were given again."""
    from declip_pipeline.store.reader import repeated_text
    from stages.screen import remark

    for place in places:
        remark(repeated_text(place))


def _localization_lines(name: str, figures: Mapping[str, Any]) -> list[str]:
    from declip_pipeline.evaluation.scores import METRICS

    count = figures["images_without_fake"]
    if figures["iou"] is None:
        lines = [f"  {name}: no image with a fake pixel"]
    else:
        # A run that keeps no threshold of `valid` has no mean at it.
        means = ", ".join(
            _mean_text(figures, name, metric)
            for name, metric in METRICS.items()
            if figures[name] is not None
        )
        lines = [f"  {name}: {means} ({_images(figures['images'])})"]
    if count:
        lines.append(
            f"  {name}, left out of the means: {_images(count)} without a fake pixel, of which "
            f"{100 * (figures['fake_share_without_fake'] or 0):.2f}% of pixels are called fake at "
            f"0.5 (mean score {figures['score_without_fake']:.4f})"
        )
    return lines


def _mean_text(figures: Mapping[str, Any], name: str, metric: "Metric") -> str:
    from declip_pipeline.reports.matrix import interval_text

    decimals = metric.decimals
    interval = interval_text(figures[f"{name}_low"], figures[f"{name}_high"], decimals - 1)
    return (
        f"{metric.title} {figures[name]:.{decimals}f}{_spread(figures, name, decimals)}{interval}"
    )


def _detection_line(name: str, figures: Mapping[str, Any]) -> str:
    from declip_pipeline.reports.matrix import interval_text

    ap, auc = (
        f"{key.upper()} {figures[key]:.4f}{_spread(figures, key, 4)}" + interval_text(low, high, 4)
        for key in ("ap", "auc")
        for low, high in [figures[f"{key}_interval"]]
    )
    half, best = (
        f"{figures[key]:.2f}{_spread(figures, key, 2)}"
        for key in ("accuracy_at_0_5", "accuracy_at_threshold")
    )
    # Over seeds each run has a threshold of its own.
    at = f"{figures['threshold']:.8g}" if "threshold" in figures else "thresholds from valid"
    return (
        f"    {name}: {ap}, {auc}, accuracy {half} at 0.5, {best} at {at} "
        f"({figures['fake']} fake, {figures['real']} real)"
    )


def _estimate_text(mean: "Estimate") -> str:
    from declip_pipeline.reports.matrix import interval_text

    return f"{mean.value:.4f}{mean.mark}{interval_text(*mean.interval, 4)}"


def _spread(figures: Mapping[str, Any], name: str, decimals: int) -> str:
    spread = figures.get(f"{name}_spread")
    return "" if spread is None else f" ± {spread:.{decimals}f}"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
