"""Evaluate the runs of a study on its test stores."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch

from declip_pipeline.evaluation.evaluate import EVALUATIONS, evaluate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.scores import METRICS, Task
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store
from declip_pipeline.training.run import Run

StudyMetric = Literal["iou", "f1_best", "f1_fixed", "ap", "detection_ap", "detection_auc"]
DETECTION = "detection_"
assert set(METRICS) < set(get_args(StudyMetric))


def task_of(metric: StudyMetric) -> Task:
    """Return the task that a study's metric is of."""
    return "detection" if metric.startswith(DETECTION) else "localization"


def evaluate_study(
    runs: Sequence[Run],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None,
    beside: Sequence[Store],
    metric: StudyMetric,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """Evaluate every run on every store, and save what was evaluated in the runs' folders.

    Values that were saved before of the same weights on the same stores are taken.

    Args:
        runs: The runs.
        stores: The test stores.
        split: Split to evaluate.
        generators: Generators to evaluate; None takes all.
        beside: Stores of the same images for decoders that take features of several stores.
        metric: The study's metric.
        device: Where to compute.
        progress: Called with numbers of runs: done and all.
    """
    task = task_of(metric)
    selection = Selection(stores, split=split, generators=generators, beside=beside, task=task)
    for run in runs:
        selection.check(run)
    found = []
    for number, run in enumerate(runs):
        progress(number, len(runs))
        evaluation = evaluate(
            run,
            stores,
            split=split,
            generators=generators,
            beside=beside,
            task=task,
            device=device,
            reuse=True,
        )
        evaluation.save(run.path / EVALUATIONS)
        found.append(evaluation)
    progress(len(runs), len(runs))
    return found
