"""`declip-pipe evaluate --detection`: how runs tell fake pictures from real ones."""

from collections.abc import Mapping, Sequence

import torch

from declip_pipeline.reports.matrix import interval_text
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.detection_evaluation import (
    DetectionEvaluation,
    DetectionFigures,
    evaluate_detection,
    plan_detections,
)
from declip_pipeline.sweeps.detection_means import (
    METRICS,
    DomainMean,
    detection_domain_means,
    detection_over_seeds,
)
from declip_pipeline.sweeps.seed_groups import seed_groups
from declip_pipeline.training.run_folder import RunFolder
from stages.figures_texts import seeds_title
from stages.judging import judge_each
from stages.screen import remark, result


def judge_detection(
    runs: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    beside: Sequence[Store],
    split: str,
    generators: Sequence[str] | None,
    batch_size: int,
    device: torch.device,
) -> None:
    """Judge runs on stores and print their figures; raises what `plan_detections` does."""
    plan = plan_detections(
        runs,
        stores,
        split=split,
        generators=generators,
        beside=beside,
    )
    evaluations = []
    for name, evaluation in judge_each(
        plan,
        stores,
        evaluate_detection,
        split=split,
        beside=beside,
        device=device,
        batch_size=batch_size,
    ):
        evaluations.append(evaluation)
        result(f"{name}, {split}: {evaluation.folder}")
        _show(evaluation.by_generator, evaluation.overall)
    for group in seed_groups(evaluations):
        if len(group) > 1:
            result(seeds_title(group, split))
            _show(*detection_over_seeds(group))
    for method in dict.fromkeys(one.method for one in evaluations):
        _show_domains([one for one in evaluations if one.method == method], method, split)


def remark_weak_maps(runs: Sequence[RunFolder]) -> None:
    """Say of which runs the maps were never trained on masks."""
    for run in runs:
        if run.config().get("pooling") is not None:
            remark(
                f"{run.path} was trained for detection, on labels of pictures: its maps are weakly "
                "supervised"
            )


def _show(
    by_generator: Mapping[str, Mapping[str, DetectionFigures]],
    overall: Mapping[str, DetectionFigures],
) -> None:
    for score in overall:
        result(f"  {score}:")
        for name, figures in by_generator.items():
            result(_line(name, figures[score]))
        if len(by_generator) > 1:
            result(_line("all", overall[score]))


def _show_domains(evaluations: Sequence[DetectionEvaluation], method: str, split: str) -> None:
    """The means in domain and out of domain of the scores that all runs have, of several cells."""
    cells = {(name, one.trained_on) for one in evaluations for name in one.by_generator}
    if len(cells) < 2:
        return
    result(f"\nmeans over cells, {split} split, {method}")
    for score in evaluations[0].overall:
        if all(score in one.overall for one in evaluations):
            means = detection_domain_means(evaluations, score)
            texts = [
                f"{domain} AP {_mean_text(ap)}, AUC {_mean_text(auc)} "
                f"({ap.cells} cell{'' if ap.cells == 1 else 's'})"
                for domain, ap, auc in zip(("ID", "OOD"), *means.values(), strict=True)
                if ap.cells
            ]
            result(f"  {score}: {'; '.join(texts)}")


def _mean_text(mean: DomainMean) -> str:
    low, high = mean.interval
    return f"{mean.value:.4f}{interval_text(low, high, 4)}"


def _line(name: str, figures: DetectionFigures) -> str:
    ap, auc = (
        f"{key.upper()} {figures[key]:.4f}{_spread(figures, key, 4)}" + interval_text(low, high, 4)
        for key in METRICS
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


def _spread(figures: DetectionFigures, name: str, decimals: int) -> str:
    spread = figures.get(f"{name}_spread")
    return "" if spread is None else f" ± {spread:.{decimals}f}"
