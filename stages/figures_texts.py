"""Mean figures as lines of text, each mean with its interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from declip_pipeline.evaluation.figures import Figures
    from declip_pipeline.sweeps.cross_evaluation import Evaluation
    from declip_pipeline.sweeps.detection_evaluation import DetectionEvaluation

# Name, title, decimals of the mean, of its interval.
_METRICS = (
    ("iou", "IoU", 2, 1),
    ("f1_best", "F1 best", 4, 3),
    ("f1_fixed", "F1 at 0.5", 4, 3),
    ("ap", "AP", 4, 3),
)
OVERALL = "overall"


def figures_lines(figures: "Mapping[str, Figures]", overall: "Figures") -> list[str]:
    """Lines for each generator and, of several, for all pictures; more for those without a fake."""
    named = dict(figures) if len(figures) == 1 else {**figures, OVERALL: overall}
    return [line for name, found in named.items() for line in _lines(name, found)]


def seeds_text(group: "Sequence[Evaluation]", split: str) -> str:
    """What runs that differ in their seed only come to: mean ± standard deviation [interval]."""
    from declip_pipeline.sweeps.seed_groups import figures_over_seeds

    lines = figures_lines(*figures_over_seeds(group))
    return "\n".join([seeds_title(group, split), *lines])


def seeds_title(
    group: "Sequence[Evaluation] | Sequence[DetectionEvaluation]", split: str, more: str = ""
) -> str:
    """What runs that differ in their seed only were judged on; `more` is said after the split."""
    seeds = ", ".join(str(one.seed) for one in group)
    # A run's folder is named by what it is, then its seed and its hash.
    name = group[0].run.name.partition("_seed")[0]
    return f"{name} on {group[0].dataset}, {split}{more}, over {len(group)} seeds ({seeds})"


def _lines(name: str, figures: "Figures") -> list[str]:
    count = figures["images_without_fake"]
    if figures["iou"] is None:
        lines = [f"  {name}: no picture with a fake pixel"]
    else:
        means = ", ".join(_mean_text(figures, *metric) for metric in _METRICS)
        lines = [f"  {name}: {means} ({_pictures(figures['images'])})"]
    if count:
        lines.append(
            f"  {name}, left out of the means: {_pictures(count)} without a fake pixel, of which "
            f"{100 * (figures['fake_share_without_fake'] or 0):.2f}% of pixels are called fake at "
            f"0.5 (mean score {figures['score_without_fake']:.4f})"
        )
    return lines


def _mean_text(
    figures: "Figures", name: str, title: str, decimals: int, decimals_of_interval: int
) -> str:
    from declip_pipeline.reports.matrix import interval_text

    spread = figures.get(f"{name}_spread")
    shown = "" if spread is None else f" ± {spread:.{decimals}f}"
    interval = interval_text(figures[f"{name}_low"], figures[f"{name}_high"], decimals_of_interval)
    return f"{title} {figures[name]:.{decimals}f}{shown}{interval}"


def _pictures(count: float | int | None) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
