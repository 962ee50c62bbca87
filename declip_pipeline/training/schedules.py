"""Learning rate schedules: after each epoch, as published, or after each step."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch.optim import lr_scheduler

from declip_pipeline.options import ScheduleName
from declip_pipeline.training.plateau_schedule import PlateauSchedule
from declip_pipeline.training.recipe import Recipe

WARMUP = 0.05
"""Share of the steps in which the schedule "cosine" rises to its highest rate."""

COLDEST = 0.01
"""First learning rate of the schedule "cosine" as a share of the highest."""


class Schedule(Protocol):
    """Learning rate of each step, and whether training goes on."""

    stopped: bool

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        ...

    def after_step(self) -> None:
        """Update the schedule after a step."""

    def after_epoch(self, score: float) -> None:
        """Update the schedule by an epoch's validation score in percent."""

    def to_state(self) -> dict[str, Any]:
        """Return the state to resume from, as plain values."""


@dataclass
class StepSchedule:
    """Learning rates of a known number of steps, one after another.

    Args:
        name: "one-cycle" or "cosine".
        highest: Highest learning rate.
        steps: Number of steps of the training.
        step: Number of steps done.
    """

    name: ScheduleName
    highest: float
    steps: int
    step: int = 0
    stopped: bool = False

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; after the last, of the last."""
        return step_rates(self.name, self.highest, self.steps)[min(self.step, self.steps - 1)]

    def after_step(self) -> None:
        """Count a step."""
        self.step += 1

    def after_epoch(self, score: float) -> None:
        """Leave the schedule as it is: no score changes it."""

    def to_state(self) -> dict[str, Any]:
        """Return the number of steps done; the rest follows from the recipe."""
        return {"step": self.step}


def make_schedule(
    recipe: Recipe, steps_of_epoch: int, state: dict[str, Any] | None = None
) -> Schedule:
    """Return the schedule of a recipe, at its beginning or as `state` says.

    Args:
        recipe: The recipe.
        steps_of_epoch: Number of steps of an epoch.
        state: What `to_state` returned.
    """
    if recipe.schedule == "plateau":
        own = state or {"learning_rate": recipe.learning_rate, "patience": recipe.patience}
        return PlateauSchedule(**own)
    steps = recipe.most_epochs * steps_of_epoch
    return StepSchedule(recipe.schedule, recipe.learning_rate, steps, **(state or {}))


@cache
def step_rates(name: ScheduleName, highest: float, steps: int) -> tuple[float, ...]:
    """Return the learning rate of each step, as PyTorch's schedulers compute them.

    "one-cycle" is `OneCycleLR` with its defaults (up for 30% of the steps from a 25th, then down
    to a 250,000th, both along cosines) and without its cycle of momentum; "cosine" is `LinearLR`
    for `WARMUP` of the steps, then `CosineAnnealingLR` down to 0.

    Source: Smith and Topin (2018), "Super-Convergence"; Loshchilov and Hutter (ICLR 2017), "SGDR".
    """
    # A training resumes at any step, and several are trained side by side: rates that follow from
    # the number of the step alone need no state.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=highest)
    scheduler: lr_scheduler.LRScheduler
    if name == "one-cycle":
        scheduler = lr_scheduler.OneCycleLR(
            optimizer, highest, total_steps=max(2, steps), cycle_momentum=False
        )
    else:
        rising = min(max(1, round(WARMUP * steps)), max(1, steps - 1))
        up = lr_scheduler.LinearLR(optimizer, COLDEST, total_iters=rising)
        down = lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - rising))
        scheduler = lr_scheduler.SequentialLR(optimizer, [up, down], [rising])
    rates = []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return tuple(rates)
