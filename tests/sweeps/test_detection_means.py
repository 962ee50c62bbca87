"""Detection over seeds, and its means in domain and out of domain, with their intervals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.evaluation.detection import MEAN_SIGMOID, PictureScores
from declip_pipeline.metrics.detection import area_under_roc, detection_metrics
from declip_pipeline.metrics.detection_intervals import detection_intervals
from declip_pipeline.sweeps.detection_evaluation import DetectionEvaluation
from declip_pipeline.sweeps.detection_means import (
    detection_domain_means,
    detection_matrix_intervals,
    detection_over_seeds,
)
from declip_pipeline.sweeps.seed_groups import seed_groups

COUNT = 80


def drawn(seed, mean=0.0):
    return mean + np.random.default_rng(seed).normal(size=COUNT)


REAL = drawn(0)


def figures_of(results):
    scores = torch.tensor([one.scores[MEAN_SIGMOID] for one in results])
    labels = torch.tensor([one.label for one in results])
    return {
        MEAN_SIGMOID: {
            "fake": int(labels.sum()),
            "real": COUNT,
            "ap": detection_metrics(scores, labels)["average_precision"],
            "auc": area_under_roc(scores, labels),
            "accuracy_at_0_5": 50.0,
            "accuracy_at_threshold": 60.0,
        }
    }


def judged(learned, seed=0, real=REAL, **fakes):
    """The n-th picture of every generator is made of the n-th real one."""
    results = [
        PictureScores(f"{name}{n}", "test", name, label, {MEAN_SIGMOID: float(score)}, f"scene{n}")
        for name, scores, label in (("real", real, 0), *((*one, 1) for one in fakes.items()))
        for n, score in enumerate(scores)
    ]
    return DetectionEvaluation(
        *(Path(f"{learned}{seed}"), Path("folder"), (learned,), None),
        overall=figures_of(results),
        by_generator={
            name: figures_of([one for one in results if one.generator in ("real", name)])
            for name in fakes
        },
        results=results,
        dataset="set",
        kind=learned,
        seed=seed,
    )


def test_of_one_cell_it_is_that_of_its_figures():
    one = judged("a", a=drawn(1, 1.0))
    ap, auc = (detection_domain_means([one])[name] for name in ("ap", "auc"))
    figures = one.by_generator["a"][MEAN_SIGMOID]
    assert (ap[0].value, auc[0].value) == (figures["ap"], figures["auc"])
    assert (ap[0].cells, ap[1].cells) == (1, 0)
    assert np.isnan([ap[1].value, *ap[1].interval]).all()
    scores = torch.from_numpy(np.concatenate([REAL, drawn(1, 1.0)]))
    labels, scenes = torch.arange(2 * COUNT) >= COUNT, np.arange(2 * COUNT) % COUNT
    expected = detection_intervals(scores, labels, scenes)
    assert ap[0].interval == pytest.approx(expected["ap"], abs=0.01)
    assert auc[0].interval == pytest.approx(expected["auc"], abs=0.01)
    assert detection_matrix_intervals([one], "auc") == (auc[0].interval, auc[1].interval)


def test_means_are_over_cells_and_forgeries_of_a_photograph_are_drawn_together():
    fake = drawn(1, 1.0)
    one, copies = judged("x", a=fake), judged("x", a=fake, b=fake, c=fake)
    assert detection_matrix_intervals([copies])[1] == pytest.approx(
        detection_matrix_intervals([one])[1]
    )
    runs = [judged("a", a=fake, b=drawn(2)), judged("b", a=drawn(3, 0.5), b=drawn(4, 2.0))]
    ins, outs = detection_domain_means(runs)["auc"]
    assert (ins.cells, outs.cells) == (2, 2)
    auc = [[run.by_generator[name][MEAN_SIGMOID]["auc"] for name in "ab"] for run in runs]
    assert ins.value == pytest.approx((auc[0][0] + auc[1][1]) / 2)
    assert outs.value == pytest.approx((auc[0][1] + auc[1][0]) / 2)
    for mean in (ins, outs):
        assert mean.interval.low < mean.value < mean.interval.high
    # The mean of the same cell of two kinds is one cell.
    other = replace(runs[0], kind="another")
    assert detection_domain_means([runs[0], other])["auc"][0].cells == 1


def test_over_seeds_there_is_a_spread_and_a_wider_interval():
    # A seed that moves all fakes moves AP and AUC of all cells.
    runs = [
        judged("a", seed, a=drawn(1, 1.0) + shift, b=drawn(2, 0.5) + shift)
        for seed, shift in enumerate((-0.1, 0.0, 0.1))
    ]
    assert seed_groups([*runs, judged("b", a=drawn(1))])[0] == runs
    by_generator, overall = detection_over_seeds(runs)
    found = by_generator["a"][MEAN_SIGMOID]
    values = [run.by_generator["a"][MEAN_SIGMOID]["auc"] for run in runs]
    assert found["auc"] == pytest.approx(np.mean(values))
    assert found["auc_spread"] == pytest.approx(np.std(values, ddof=1))
    assert (found["fake"], found["real"], overall[MEAN_SIGMOID]["fake"]) == (COUNT, COUNT, 160)
    assert (found["accuracy_at_threshold"], found["accuracy_at_threshold_spread"]) == (60, 0)
    alone, _ = detection_over_seeds([runs[1]] * 3)
    assert alone["a"][MEAN_SIGMOID]["auc_spread"] == 0

    def width(interval):
        return interval[1] - interval[0]

    one = alone["a"][MEAN_SIGMOID]["auc_interval"]
    assert 1.05 * width(one) < width(found["auc_interval"]) < 4 * width(one)
    outs = detection_matrix_intervals(runs, "auc")[1]
    same = detection_matrix_intervals([runs[1]], "auc")[1]
    assert width(outs) > 1.05 * width(same)
    assert outs.high <= 1
