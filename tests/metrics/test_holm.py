"""Holm's correction: cases worked by hand, its definition step by step, and the errors it holds."""

import math

import numpy as np
import pytest

from declip_pipeline.metrics.holm import holm


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 is raised to the 0.06 before it.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 0.4 * 2 = 0.8 is more than 0.5 * 1.
        ([0.5, 0.4], [0.8, 0.8]),
        # Equal ones are equal afterwards.
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.6, 0.7, 0.9], [1.0, 1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_cases_worked_by_hand(given, corrected):
    assert holm(given) == pytest.approx(corrected)


def test_a_test_that_could_not_be_made_does_not_count():
    found = holm([0.01, math.nan, 0.02])
    assert found[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])


def stepped_down(p_values: np.ndarray, level: float) -> np.ndarray:
    """Return which hypotheses are rejected, by Holm's procedure as it is defined."""
    rejected = np.zeros(len(p_values), bool)
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > level / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


def test_what_is_below_a_level_is_what_the_procedure_rejects():
    random = np.random.default_rng(0)
    rejections = 0
    for count in range(1, 12):
        p_values = random.uniform(0, 1, count) ** 4
        for level in (0.01, 0.05, 0.2, 0.5):
            rejected = np.array(holm(p_values.tolist())) <= level
            assert (rejected == stepped_down(p_values, level)).all()
            rejections += rejected.sum()
    assert rejections > 50


def test_any_false_difference_among_all_is_as_rare_as_the_level_says():
    random = np.random.default_rng(1)
    draws = random.uniform(0, 1, (4000, 10))
    false = np.mean([min(holm(row.tolist())) <= 0.05 for row in draws])
    # One standard error is 0.0034; without a correction it would be 0.40.
    assert 0.035 < false < 0.06
