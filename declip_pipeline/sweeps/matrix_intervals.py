"""How far the ID and OOD means of a matrix would move with other pictures and seeds."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from declip_pipeline.compute import derived_seed
from declip_pipeline.evaluation.figures import interval_of
from declip_pipeline.evaluation.localization import ImageResult, scenes_of
from declip_pipeline.metrics.bootstrap import (
    RESAMPLES,
    Interval,
    resampled_means,
)
from declip_pipeline.sweeps.cross_evaluation import Evaluation

# A generator and its pictures, what the runs were trained on, their kind, and the store.
_Group = tuple[str, tuple[str, ...], tuple[str, ...], str, str]


def matrix_intervals(
    evaluations: Sequence[Evaluation], metric: str = "iou"
) -> tuple[Interval, Interval]:
    """The intervals of the means that `matrix_means` gives of `iou_matrix`: of ID and of OOD.

    `metric` is one of METRICS.

    Scenes are resampled, once for all cells of a dataset: a photograph that several generators
    forged is drawn with all its forgeries, or with none. Runs that differ in their seed only are
    resampled too, the same ones in all cells of a column. (NaN, NaN) where a mean has no cell, or a
    cell fewer than two scenes.
    Source: the nonparametric bootstrap of a mean of means; see `metrics.bootstrap.mean_interval`.
    """
    in_domain, out_of_domain = [
        _interval_of_cells(
            [
                (name, one)
                for one in evaluations
                for name, figures in one.figures.items()
                if figures[metric] is not None and (name in one.trained_on) == learned
            ],
            metric,
        )
        for learned in (True, False)
    ]
    return in_domain, out_of_domain


def _interval_of_cells(members: Sequence[tuple[str, Evaluation]], metric: str) -> Interval:
    per_cell = Counter((name, one.trained_on) for name, one in members)
    datasets: dict[str, dict[_Group, list[Sequence[ImageResult]]]] = {}
    for name, one in members:
        judged = [result for result in one.results if result.generator == name and result.has_fake]
        pictures = tuple(result.id for result in judged)
        group = (name, pictures, one.trained_on, one.kind, one.store)
        datasets.setdefault(one.dataset, {}).setdefault(group, []).append(judged)
    total: np.ndarray = np.zeros(RESAMPLES) if members else np.full(1, np.nan)
    for dataset, groups in datasets.items():
        means = resampled_means(
            [
                np.array([[getattr(result, metric) for result in run] for run in runs])
                for runs in groups.values()
            ],
            scenes=[scenes_of(runs[0]) for runs in groups.values()],
            seed=derived_seed(0, dataset),
            seeds_alike=[
                derived_seed(0, "+".join(learned), kind) for _, _, learned, kind, _ in groups
            ],
        )
        for mean, ((name, _, learned, _, _), runs) in zip(means, groups.items(), strict=True):
            total = total + mean * len(runs) / (per_cell[name, learned] * len(per_cell))
    return interval_of(total, metric)
