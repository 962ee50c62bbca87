"""`declip-pipe evaluate --detection`: how runs tell fake pictures from real ones."""

from collections.abc import Sequence

import torch

from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.detection_evaluation import (
    DetectionEvaluation,
    DetectionFigures,
    evaluate_detection,
    plan_detections,
)
from declip_pipeline.training.run_folder import RunFolder
from stages.screen import progress, remark, result


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
    judged_on = {store.location for _, store, _ in plan}
    for store in stores:
        if store.location not in judged_on:
            remark(f"left out, has none of the generators that were named: {store.location}")
    for run, store, own in plan:
        with progress(f"{run.path.name} on {store.dataset}") as tell:
            evaluation = evaluate_detection(
                run,
                store,
                split=split,
                generators=own,
                beside=beside,
                device=device,
                batch_size=batch_size,
                progress=tell,
            )
        _show(evaluation, f"{run.path.name} on {store.dataset}, {split}")


def remark_weak_maps(runs: Sequence[RunFolder]) -> None:
    """Say of which runs the maps were never trained on masks."""
    for run in runs:
        if run.config().get("pooling") is not None:
            remark(
                f"{run.path} was trained for detection, on labels of pictures: its maps are weakly "
                "supervised"
            )


def _show(evaluation: DetectionEvaluation, what: str) -> None:
    result(f"{what}: {evaluation.folder}")
    for score in evaluation.overall:
        result(f"  {score}:")
        for name, figures in evaluation.by_generator.items():
            result(_line(name, figures[score]))
        if len(evaluation.by_generator) > 1:
            result(_line("all", evaluation.overall[score]))


def _line(name: str, figures: DetectionFigures) -> str:
    ap, auc = (
        f"{key.upper()} {figures[key]:.4f} [{low:.4f}, {high:.4f}]"
        for key in ("ap", "auc")
        for low, high in [figures[f"{key}_interval"]]
    )
    return (
        f"    {name}: {ap}, {auc}, accuracy {figures['accuracy_at_0_5']:.2f} at 0.5, "
        f"{figures['accuracy_at_threshold']:.2f} at {figures['threshold']:.8g} "
        f"({figures['fake']} fake, {figures['real']} real)"
    )
