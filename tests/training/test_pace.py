"""The time of an epoch is said after its first steps, where it is long, and its steps at times."""

import pytest
import torch

from declip_pipeline.training import pace
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what it is set to."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    one = Clock()
    monkeypatch.setattr(pace, "time", one)
    return one


def lines_of(clock, seconds, steps=100, epochs=20):
    measured, lines = pace.Pace(steps, epochs, CPU), []
    for _ in range(10):
        clock.now += seconds
        lines.append(measured.after_step())
    return lines


def test_it_is_said_once_without_the_first_step(clock):
    measured = pace.Pace(100, 20, CPU)
    lines = []
    for seconds in (30.0, 1.5, 1.5, 1.5):
        clock.now += seconds
        lines.append(measured.after_step())
    assert lines == [
        None,
        None,
        "an epoch of 100 steps takes about 0:02:30, without validation; 20 epochs at most, 0:50:00",
        None,
    ]


def test_steps_of_a_long_epoch_are_said_each_half_minute(clock):
    measured = pace.Pace(20, 3, CPU, is_first=False)
    lines = []
    for _ in range(20):
        clock.now += 10.0
        lines.append(measured.after_step())
    said = {step: line for step, line in enumerate(lines, 1) if line}
    assert list(said) == [4, 7, 10, 13, 16, 19]
    assert said[4] == "step 4 of 20 of this epoch, 0.1 steps/s, 0:02:40 left in it"


def test_of_short_epochs_nothing_is_said(clock):
    assert lines_of(clock, 0.3, steps=20) == [None] * 10
    assert lines_of(clock, 0.01) == [None] * 10
    assert [line is not None for line in lines_of(clock, 0.5, steps=40)].count(True) == 1


def test_a_training_says_it_through_its_notices(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(pace, "WORTH_SAYING", 0.0)
    said = []
    data = TrainingData([tiny_store], device=CPU, notice=said.append)
    recipe = Recipe("linear", epochs=3, batch_size=3)
    train_run(data, tmp_path, layer="layer1", recipe=recipe)
    (line,) = [line for line in said if "takes about" in line]
    assert line.startswith("an epoch of 3 steps takes about 0:00:0")
    assert "; 3 epochs at most, 0:00:0" in line
