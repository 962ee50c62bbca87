"""Schedules in steps: their rates, and that they go on where they stopped."""

import pytest

from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.schedules import StepSchedule, make_schedule, step_rates


def test_one_cycle_rises_for_a_third_and_falls_to_nothing():
    rates = step_rates("one-cycle", 1e-2, 100)
    assert len(rates) == 100
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 29
    assert rates[-1] == pytest.approx(1e-2 / 25e4)


def test_cosine_warms_up_and_falls_along_a_cosine():
    rates = step_rates("cosine", 1e-2, 100)
    assert rates[0] == pytest.approx(1e-4)
    assert rates.index(max(rates)) == 5 and max(rates) == pytest.approx(1e-2)
    # In the middle of the cosine, half of the highest rate.
    assert (rates[52] + rates[53]) / 2 == pytest.approx(5e-3, rel=1e-3)
    assert rates[-1] < 1e-5
    assert list(rates[5:]) == sorted(rates[5:], reverse=True)


@pytest.mark.parametrize("name", ["one-cycle", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_have_rates_too(name, steps):
    rates = step_rates(name, 1e-2, steps)
    assert len(rates) == steps and all(0 <= rate <= 1e-2 for rate in rates)


@pytest.mark.parametrize("name", ["one-cycle", "cosine"])
def test_a_schedule_goes_on_where_it_stopped(name):
    recipe = Recipe("linear", schedule=name, epochs=4)
    schedule, rates = make_schedule(recipe, 5), []
    for _ in range(20):
        rates.append(schedule.learning_rate)
        schedule = make_schedule(recipe, 5, schedule.to_state())
        schedule.after_step()
    assert tuple(rates) == step_rates(name, 1e-3, 20)
    assert isinstance(schedule, StepSchedule) and not schedule.stopped
    assert schedule.learning_rate == rates[-1]
