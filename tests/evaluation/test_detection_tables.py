"""Detection over seeds, and its means in domain and out of domain, with their intervals."""

import numpy as np
import pytest
import torch
from support.made_evaluation import config_of, detected

from declip_pipeline.evaluation.cells import cells_of, seed_groups
from declip_pipeline.evaluation.intervals import detection_figures
from declip_pipeline.evaluation.matrices import domain_estimates, matrices
from declip_pipeline.metrics.detection_intervals import detection_intervals

COUNT = 80


def drawn(seed, mean=0.0):
    return mean + np.random.default_rng(seed).normal(size=COUNT)


REAL = drawn(0)


def scored(learned, seed=0, real=REAL, **fakes):
    """The n-th image of every generator is made of the n-th real one."""
    return detected(learned, seed, real=real, **fakes)


def intervals_of(evaluations, metric="ap"):
    return tuple(one.interval for one in domain_estimates(evaluations, metric=metric))


def test_of_one_cell_it_is_that_of_its_figures():
    one = scored("a", a=drawn(1, 1.0))
    (found,) = matrices([one], metrics=("ap", "auc"))
    ap, auc = found.domains["ap"], found.domains["auc"]
    assert (ap[0].value, auc[0].value) == (one.mean("ap"), one.mean("auc"))
    assert (ap[0].cells, ap[1].cells) == (1, 0)
    assert np.isnan([ap[1].value, *ap[1].interval]).all()
    scores = torch.from_numpy(np.concatenate([REAL, drawn(1, 1.0)]))
    labels, scenes = torch.arange(2 * COUNT) >= COUNT, np.arange(2 * COUNT) % COUNT
    expected = detection_intervals(scores, labels, scenes)
    assert one.interval("ap") == pytest.approx(expected["ap"], abs=0.01)
    assert ap[0].interval == pytest.approx(expected["ap"], abs=0.01)
    assert auc[0].interval == pytest.approx(expected["auc"], abs=0.01)
    assert intervals_of([one], "auc")[0] == auc[0].interval


def test_means_are_over_cells_and_forgeries_of_a_photograph_are_drawn_together():
    fake = drawn(1, 1.0)
    one, copies = scored("x", a=fake), scored("x", a=fake, b=fake, c=fake)
    assert intervals_of([copies])[1] == pytest.approx(intervals_of([one])[1])
    runs = [scored("a", a=fake, b=drawn(2)), scored("b", a=drawn(3, 0.5), b=drawn(4, 2.0))]
    ins, outs = domain_estimates(runs, metric="auc")
    assert (ins.cells, outs.cells) == (2, 2)
    auc = [[run.mean("auc", generator=name) for name in "ab"] for run in runs]
    assert ins.value == pytest.approx((auc[0][0] + auc[1][1]) / 2)
    assert outs.value == pytest.approx((auc[0][1] + auc[1][0]) / 2)
    for mean in (ins, outs):
        assert mean.interval.low < mean.value < mean.interval.high


def test_runs_that_differ_in_more_than_their_seed_have_means_of_their_own():
    other = config_of("a", learning_rate=1.0)
    runs = [scored("a", a=drawn(1, 1.0)), detected("a", config=other, real=REAL, a=drawn(2))]
    assert len(matrices(runs, metrics=["auc"])) == 2


def test_a_run_or_store_given_twice_narrows_no_interval():
    runs = [scored("a", seed, a=drawn(1, 1.0) + seed) for seed in (0, 1)]
    once = domain_estimates(runs, metric="ap")[0]
    again = domain_estimates([*runs, *runs], metric="ap")[0]
    assert (again.value, again.interval) == (once.value, once.interval)


@pytest.mark.slow
def test_over_seeds_there_is_a_spread_and_a_wider_interval():
    # A seed that moves all fakes moves AP and AUC of all cells.
    runs = [
        scored("a", seed, a=drawn(1, 1.0) + shift, b=drawn(2, 0.5) + shift)
        for seed, shift in enumerate((-0.1, 0.0, 0.1))
    ]
    assert list(seed_groups([*runs, scored("b", a=drawn(1))])[0].members) == runs
    cell = cells_of(runs)[0]
    found = cell.figures()
    values = [run.mean("auc", generator="a") for run in runs]
    assert found["auc"] == pytest.approx(np.mean(values))
    assert found["auc_spread"] == pytest.approx(np.std(values, ddof=1))
    overall = detection_figures(runs, "mean_sigmoid")
    assert (found["fake"], found["real"], overall["fake"]) == (COUNT, COUNT, 160)
    assert found["accuracy_at_threshold_spread"] > 0
    alone = detection_figures([runs[1].of("a")] * 3, "mean_sigmoid")
    assert alone["auc_spread"] == 0

    def width(interval):
        return interval[1] - interval[0]

    one = alone["auc_interval"]
    assert 1.05 * width(one) < width(found["auc_interval"]) < 4 * width(one)
    outs, same = (intervals_of(some, "auc")[1] for some in (runs, [runs[1]]))
    assert width(outs) > 1.05 * width(same)
    assert outs.high <= 1
