"""How far the ID and OOD means of a matrix would move with other pictures and seeds."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from declip_pipeline.evaluation.figures import interval_of
from declip_pipeline.metrics.bootstrap import (
    RESAMPLES,
    Interval,
    resampled_means,
)
from declip_pipeline.seeding import derived_seed
from declip_pipeline.sweeps.cross_evaluation import Evaluation

# What its runs were trained on, their kind, and the store.
_Group = tuple[tuple[str, ...], str, str]


def matrix_intervals(
    evaluations: Sequence[Evaluation], metric: str = "iou"
) -> tuple[Interval, Interval]:
    """The intervals of the means that `matrix_means` gives of `iou_matrix`: of ID and of OOD.

    `metric` is one of METRICS.

    Pictures are resampled within each cell. Cells of the same pictures (a row of the matrix) take
    the same ones; runs that differ in their seed only are resampled too, the same ones in all cells
    of a column. (NaN, NaN) where a mean has no cell, or a cell fewer than two pictures.
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
    # By the pictures of a row, the values of each group of runs that differ in their seed.
    rows: dict[tuple[str, str, tuple[str, ...]], dict[_Group, list[list[float]]]] = {}
    for name, one in members:
        judged = [result for result in one.results if result.generator == name and result.has_fake]
        pictures = (name, one.dataset, tuple(result.id for result in judged))
        group = (one.trained_on, one.kind, one.store)
        rows.setdefault(pictures, {}).setdefault(group, []).append(
            [getattr(result, metric) for result in judged]
        )
    total: np.ndarray = np.zeros(RESAMPLES) if rows else np.full(1, np.nan)
    for (name, dataset, _), groups in rows.items():
        means = resampled_means(
            [np.array(values) for values in groups.values()],
            seed=derived_seed(0, name, dataset),
            seeds_alike=[derived_seed(0, "+".join(learned), kind) for learned, kind, _ in groups],
        )
        for mean, (group, values) in zip(means, groups.items(), strict=True):
            total = total + mean * len(values) / (per_cell[name, group[0]] * len(per_cell))
    return interval_of(total, metric)
