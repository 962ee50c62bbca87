"""Means of evaluations as lines of text, each with its interval."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from declip_pipeline.evaluation.cells import Estimate
    from declip_pipeline.evaluation.cost import RunCost
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.groups import Group
    from declip_pipeline.training.run import Run

OVERALL = "overall"

# A run's folder is named by these, and a line by what it was evaluated on.
_IN_THE_NAME = (
    *("decoder", "layer", "backbone", "pooling", "train_on", "training_stores", "fusion"),
    *("weights", "preprocessing", "widths", "dataset", "store", "ensemble", "folder"),
)


def caption_of(metrics: Collection[str]) -> str:
    """Return the caption of figures: their unit and protocol; without a metric, of detection."""
    from declip_pipeline.evaluation.metrics import DETECTION_PROTOCOL, protocol_lines

    return "\n".join(protocol_lines(metrics) if metrics else [DETECTION_PROTOCOL])


def evaluation_lines(
    seeds: "Sequence[Evaluation]", metrics: Sequence[str] | None = None
) -> list[str]:
    """Return lines of an evaluation, or of evaluations of several seeds together.

    All figures are in percent. `metrics` are those of localization, the default ones where None.
    """
    from declip_pipeline.evaluation.intervals import detection_figures, localization_figures

    first = seeds[0]

    def figures(generator: str | None, score: str = "") -> dict[str, Any]:
        if len(seeds) == 1:
            return first.figures(generator, score) if score else first.figures(generator)
        own = [one if generator is None else one.of(generator) for one in seeds]
        return detection_figures(own, score) if score else localization_figures(own)

    names = first.generators
    if first.task == "localization":
        lines = localization_lines({name: figures(name) for name in names}, figures(None), metrics)
        return [
            *lines,
            *false_alarm_lines(seeds),
            *image_score_lines(seeds),
            *verdict_lines(seeds),
        ]
    lines = []
    for score in first.scores:
        lines.append(f"  {score}:")
        lines += [_detection_line(name, figures(name, score)) for name in names]
        if len(names) > 1:
            lines.append(_detection_line("all", figures(None, score)))
    return [*lines, *verdict_lines(seeds)]


def localization_lines(
    figures: Mapping[str, Mapping[str, Any]],
    overall: Mapping[str, Any],
    metrics: Sequence[str] | None = None,
) -> list[str]:
    """Return lines by generator and, of several, for all images; more for those without a fake."""
    from declip_pipeline.evaluation.metrics import chosen_metrics

    chosen = chosen_metrics(metrics)
    named = dict(figures) if len(figures) == 1 else {**figures, OVERALL: overall}
    return [
        line for name, found in named.items() for line in _localization_lines(name, found, chosen)
    ]


def false_alarm_lines(seeds: "Sequence[Evaluation]") -> list[str]:
    """Return lines on the false alarms on real images, none without such images."""
    from declip_pipeline.evaluation.intervals import ALARMING, false_alarm_figures
    from declip_pipeline.evaluation.metrics import MASKS

    figures = false_alarm_figures(seeds)
    if not figures["real_images"]:
        return []

    def text(name: str) -> str:
        return percent_text(figures, name, sign="%")

    return [
        f"  false alarms on real images {masks.label}: "
        f"{text(f'false_alarm_pixels{behind}')} of pixels, "
        f"{text(f'false_alarm_images{behind}')} of images, "
        f"{text(f'large_false_alarm_images{behind}')} with more than {ALARMING:.0%} of their "
        f"pixels ({_images(figures['real_images'])})"
        for behind, masks in MASKS.items()
        if figures[f"false_alarm_pixels{behind}"] is not None
    ]


def remark_lacking(evaluation: "Evaluation", metrics: Sequence[str]) -> None:
    """Say which metrics of localization an evaluation has no values of."""
    from stages.screen import remark

    figures = evaluation.figures() if evaluation.task == "localization" else {}
    lacking = [name for name in metrics if figures.get(name, 0.0) is None]
    if lacking:
        remark(
            f"{evaluation.run.name}: no values of {', '.join(lacking)}, for which a training keeps "
            "what was best on its split valid"
        )


def image_score_lines(seeds: "Sequence[Evaluation]") -> list[str]:
    """Return how scores of maps tell fakes from real images; none without both."""
    from declip_pipeline.evaluation.image_scores import image_score_figures
    from declip_pipeline.metrics.localization import TOP_SHARE

    found = image_score_figures(seeds)
    if not found:
        return []
    share = seeds[0].stores[0].made_from.get("top_share", TOP_SHARE)
    titles = {
        "score": "mean",
        "score_max": "maximum (any pixel above 0.5)",
        "score_top": f"mean of the highest {100 * share:g}% of pixels",
    }
    first = next(iter(found.values()))
    lines = [
        "  whole images by their map at the image's own size, called fake above 0.5 "
        f"({first['fake']} fake, {first['real']} real):"
    ]
    for score, figures in found.items():
        texts = [
            f"{title} {percent_text(figures, name, factor)}"
            for title, name, factor in (
                ("AUC", "auc", 100),
                ("accuracy", "accuracy", 1),
                ("F1", "f1", 100),
            )
        ]
        lines.append(f"    {titles[score]}: {', '.join(texts)}")
    return lines


def verdict_lines(seeds: "Sequence[Evaluation]") -> list[str]:
    """Return how often verdicts at the runs' own thresholds are right; none without any."""
    from declip_pipeline.evaluation.image_scores import verdict_figures

    figures = verdict_figures(seeds)
    if figures is None:
        return []
    at = f"a score of at least {figures['threshold']:.6g}" if "threshold" in figures else "scores"
    return [
        f"  verdict forged at {at}, best on valid in training: "
        f"{percent_text(figures, 'true_positive_rate', sign='%')} of {figures['fake']} fakes are "
        f"called forged (true positive rate), "
        f"{percent_text(figures, 'false_positive_rate', sign='%')} of {_real(figures['real'])} "
        "(false positive rate)"
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


def cost_text(costs: "Sequence[tuple[str, RunCost]]") -> str:
    """Return the costs of runs, each with a name, as a table with its caption."""
    from declip_pipeline.reports.comparison import cost_caption, cost_rows
    from stages.table import format_table

    head, *rows = cost_rows(costs)
    return f"{cost_caption([one for _, one in costs])}\n{format_table(head, rows)}"


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


def _localization_lines(name: str, figures: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS

    count = figures["images_without_fake"]
    if figures["iou"] is None:
        lines = [f"  {name}: no image with a fake pixel"]
    else:
        # A run that keeps no threshold of `valid` has no mean at it.
        means = ", ".join(
            f"{LOCALIZATION_METRICS[metric].title} "
            + percent_text(figures, metric, LOCALIZATION_METRICS[metric].percent, ends=1)
            for metric in metrics
            if figures[metric] is not None
        )
        lines = [f"  {name}: {means} ({_images(figures['images'])})"]
        if "auc" in metrics and figures["images_without_auc"]:
            lines.append(
                f"  {name}, left out of AUC: {_images(figures['images_without_auc'])} without a "
                "real pixel"
            )
    if count:
        lines.append(
            f"  {name}, left out of the means: {_images(count)} without a fake pixel, of which "
            f"{100 * (figures['fake_share_without_fake'] or 0):.2f}% of pixels are called fake at "
            f"0.5 (mean score {figures['score_without_fake']:.4f})"
        )
    return lines


def percent_text(
    figures: Mapping[str, Any], name: str, factor: float = 1, *, ends: int = 2, sign: str = ""
) -> str:
    """Return a mean with its spread over seeds and its interval, in percent."""
    from declip_pipeline.reports.matrix import interval_text

    spread = figures.get(f"{name}_spread")
    low, high = (
        None if figures[f"{name}_{end}"] is None else factor * figures[f"{name}_{end}"]
        for end in ("low", "high")
    )
    return (
        f"{factor * figures[name]:.2f}{sign}"
        + ("" if spread is None else f" ± {factor * spread:.2f}")
        + interval_text(low, high, ends)
    )


def _detection_line(name: str, figures: Mapping[str, Any]) -> str:
    from declip_pipeline.reports.matrix import interval_text

    texts = [
        f"{key.upper()} {100 * figures[key]:.2f}{_spread(figures, key, 100)}"
        + interval_text(100 * low, 100 * high, 2)
        for key in ("ap", "auc")
        for low, high in [figures[f"{key}_interval"]]
    ]
    half, best = (
        f"accuracy {figures[f'accuracy_at_{at}']:.2f}{_spread(figures, f'accuracy_at_{at}', 1)} "
        f"and F1 {100 * figures[f'f1_at_{at}']:.2f}{_spread(figures, f'f1_at_{at}', 100)}"
        for at in ("0_5", "threshold")
    )
    # Over seeds each run has a threshold of its own.
    at = f"{figures['threshold']:.8g}" if "threshold" in figures else "thresholds from valid"
    return (
        f"    {name}: {', '.join(texts)}, {half} at 0.5, {best} at {at} "
        f"({figures['fake']} fake, {figures['real']} real)"
    )


def _estimate_text(mean: "Estimate") -> str:
    from declip_pipeline.reports.matrix import interval_text

    percent = mean.scaled(100)
    return f"{percent.value:.2f}{percent.mark}{interval_text(*percent.interval, 2)}"


def _spread(figures: Mapping[str, Any], name: str, factor: float) -> str:
    spread = figures.get(f"{name}_spread")
    return "" if spread is None else f" ± {factor * spread:.2f}"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _real(count: int) -> str:
    return "1 real image" if count == 1 else f"{count} real images"
