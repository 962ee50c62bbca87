"""The runs of a study on its test stores: one metric, in percent."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from declip_pipeline.evaluation.localization import METRICS
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.cross_evaluation import (
    evaluate_run,
    judged_stores,
    plan_evaluations,
)
from declip_pipeline.sweeps.detection_evaluation import (
    evaluate_detection,
    plan_detections,
    require_both_classes,
)
from declip_pipeline.sweeps.study_table import (
    Judged,
    detected_runs,
    detection_domain_intervals,
    domain_intervals,
    judged_runs,
)
from declip_pipeline.training.run_folder import RunFolder

StudyMetric = Literal["iou", "f1_best", "f1_fixed", "ap", "detection_ap", "detection_auc"]
DETECTION = "detection_"
assert set(METRICS) < set(get_args(StudyMetric))

Judgement = TypeVar("Judgement")


def check_test_stores(
    stores: Sequence[Store], *, split: str, generators: Sequence[str] | None, metric: StudyMetric
) -> None:
    """Refuse stores on which no run could be judged, before hours of training.

    Raises what `plan_evaluations` or `plan_detections` says of stores.
    """
    for store, own in judged_stores(stores, split=split, generators=generators):
        if metric.startswith(DETECTION):
            require_both_classes(store, own, split)


def judge_study(
    runs: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None,
    beside: Sequence[Store],
    metric: StudyMetric,
    row_of: Mapping[Path, str],
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Judged], dict[str, tuple[Interval, Interval]]]:
    """Judge every run on every store; what was judged before of the same weights is taken.

    `row_of` names the row of a table that a run is in. Returns the runs' figures in percent, and
    for rows the intervals of their means in domain and out of domain.
    `progress` is told runs done and in all.
    """
    asked: dict[str, Any] = {"split": split, "generators": generators, "beside": beside}

    def all_of(
        plan: Sequence[tuple[RunFolder, Store, list[str] | None]],
        evaluate: Callable[..., Judgement],
    ) -> list[Judgement]:
        found = []
        for number, (run, store, own) in enumerate(plan):
            progress(number, len(plan))
            found.append(evaluate(run, store, **asked | {"generators": own, "device": device}))
        progress(len(plan), len(plan))
        return found

    if metric.startswith(DETECTION):
        plan = plan_detections(runs, stores, **asked)
        detections = all_of(plan, partial(evaluate_detection, reuse=True))
        name = metric.removeprefix(DETECTION)
        return detected_runs(detections, name), detection_domain_intervals(detections, name, row_of)
    plan = plan_evaluations(runs, stores, **asked)
    evaluations = all_of(plan, partial(evaluate_run, reuse=True))
    return judged_runs(evaluations, metric), domain_intervals(evaluations, metric, row_of)
