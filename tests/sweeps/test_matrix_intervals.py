"""Intervals of ID and OOD means, and groups of runs that differ in their seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.evaluation.figures import figures_with_intervals
from declip_pipeline.evaluation.localization import ImageResult, by_generator
from declip_pipeline.metrics.bootstrap import mean_interval
from declip_pipeline.reports.matrix import matrix_means
from declip_pipeline.sweeps.cross_evaluation import Evaluation, iou_matrix, pooled
from declip_pipeline.sweeps.matrix_intervals import matrix_intervals
from declip_pipeline.sweeps.seed_groups import figures_over_seeds, seed_groups


def judged(learned, seed=0, kind=None, **ious):
    results = [
        ImageResult(f"{name}{number}", "test", name, True, iou, 0.5, 0.5, 0.5, 0.5, 0.1)
        for name, values in ious.items()
        for number, iou in enumerate(values)
    ]
    figures = {n: figures_with_intervals([some]) for n, some in by_generator(results).items()}
    place = Path(f"{learned}{seed}")
    return Evaluation(
        *(place, "store", place, (learned,), figures, results),
        dataset="set",
        kind=kind or learned,
        seed=seed,
    )


def normal(mean, count, seed):
    return mean + 10 * np.random.default_rng(seed).normal(size=count)


def test_in_domain_cells_are_resampled_each_by_itself():
    lama, ldm = normal(80, 400, 1), normal(60, 100, 2)
    evaluations = [judged("lama", lama=lama), judged("ldm", ldm=ldm)]
    found, out_of_domain = matrix_intervals(evaluations)
    assert np.isnan(out_of_domain).all()
    error = np.sqrt(lama.var() / 400 + ldm.var() / 100) / 2
    middle = (lama.mean() + ldm.mean()) / 2
    assert matrix_means(*iou_matrix(evaluations))[0] == pytest.approx(middle)
    expected = (middle - 1.96 * error, middle + 1.96 * error)
    assert found == pytest.approx(expected, abs=0.08 * error)


def test_cells_of_a_row_take_the_same_pictures():
    """What one gains on a picture the other loses: the mean of both cells never moves."""
    one = normal(50, 60, 3)
    evaluations = [judged("a", x=one), judged("b", x=100 - one)]
    assert matrix_intervals(evaluations)[1] == pytest.approx((50, 50))
    alone = matrix_intervals(evaluations[:1])[1]
    assert alone == pytest.approx(mean_interval(one), abs=0.4)


def test_seeds_are_resampled_alike_in_all_cells_of_a_column():
    """Each seed shifts all its cells: with its own seeds in each of three, the mean would seldom
    move so far. Of two seeds it is 9.2 times as far as they lie from their mean."""
    pictures = np.zeros(50)
    seeds = [
        judged("a", seed=seed, **dict.fromkeys("xyz", pictures + shift))
        for seed, shift in enumerate((49.0, 51.0))
    ]
    assert matrix_intervals(seeds)[1] == pytest.approx((40.83, 59.17), abs=0.01)


def test_no_interval_leaves_the_range_of_its_metric():
    seeds = [judged("a", seed=seed, x=np.zeros(50) + iou) for seed, iou in enumerate((10, 90))]
    assert matrix_intervals(seeds)[1] == (0, 100)
    figures, _ = figures_over_seeds(seeds)
    assert (figures["x"]["iou_low"], figures["x"]["iou_high"]) == (0, 100)
    assert (figures["x"]["ap_low"], figures["x"]["ap_high"]) == pytest.approx((0.5, 0.5))


def forged(learned, scenes, seed=0, **ious):
    """As `judged`, with the n-th picture of every generator made of the same photograph."""
    found = judged(learned, seed=seed, **ious)
    results = [
        replace(result, scene=f"{scenes}/{result.id.removeprefix(result.generator)}")
        for result in found.results
    ]
    return replace(found, results=results)


def test_forgeries_of_one_photograph_are_drawn_together():
    """Cells that are copies have the interval of one, in the matrix and where all are pooled."""
    one = normal(50, 60, 3)
    cells = dict.fromkeys(("lama", "ldm", "telea"), one)
    alone, thrice = forged("x", "set", lama=one), forged("x", "set", **cells)
    expected = matrix_intervals([alone])[1]
    assert matrix_intervals([thrice])[1] == pytest.approx(expected)
    overall = pooled([thrice, forged("x", "set", real=one)]).overall
    interval = overall["iou_low"], overall["iou_high"]
    assert interval == pytest.approx(mean_interval(one, scenes=np.arange(60)), abs=0.4)
    apart = forged("x", "set", lama=one, ldm=normal(50, 60, 4), telea=normal(50, 60, 5))
    low, high = matrix_intervals([apart])[1]
    assert high - low < 0.7 * (expected.high - expected.low)


def test_runs_of_different_kinds_are_not_resampled():
    pictures = np.zeros(50)
    runs = [judged("a", kind="linear", x=pictures), judged("a", kind="conv", x=pictures + 100)]
    assert matrix_intervals(runs)[1] == pytest.approx((50, 50))


def test_groups_differ_in_their_seed_only():
    runs = [
        judged("a", seed=1, x=[10.0, 20.0]),
        judged("b", seed=0, x=[10.0, 20.0]),
        judged("a", seed=0, x=[30.0, 40.0]),
        judged("a", seed=0, x=[0.0, 0.0]),
        judged("a", seed=2, x=[30.0, 40.0, 50.0]),
    ]
    groups = seed_groups(runs)
    assert [[runs.index(one) for one in group] for group in groups] == [[2, 0], [1], [4]]
    figures, overall = figures_over_seeds(groups[0])
    assert figures["x"] == overall
    assert (overall["iou"], overall["images"]) == (25.0, 2)
    assert overall["iou_spread"] == pytest.approx(np.sqrt(200))
