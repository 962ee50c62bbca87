"""Pace of a training: seconds of an epoch and time left, and steps done in a long epoch."""

import time
from datetime import timedelta

import torch

MEASURED_SECONDS = 2.0
"""Seconds of steps after which a pace is known; the first step, which warms up, is left out."""

WORTH_SAYING = 10.0
"""Seconds of an epoch below which nothing is said: its own line comes soon."""

SAID_EVERY = 30.0
"""Seconds between two lines on the steps of an epoch."""


class Pace:
    """Time of the steps of an epoch so far."""

    def __init__(
        self, steps: int, epochs: int, device: torch.device, *, is_first: bool = True
    ) -> None:
        """Begin to measure.

        Args:
            steps: Number of steps of an epoch.
            epochs: Most epochs that are left, this one included.
            device: Device that computes.
            is_first: Say how long an epoch takes.
        """
        self._steps, self._epochs, self._device = steps, epochs, device
        self._done = 0
        self._started = self._said = 0.0
        self._is_known = not is_first

    def after_step(self) -> str | None:
        """Count a step; return a line once a pace is known and worth it, then one at times."""
        if not self._is_known and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._done += 1
        now = time.perf_counter()
        if self._done == 1:
            self._started = self._said = now
            return None
        line = self._first_line(now) or self._regular_line(now)
        if line is not None:
            self._said = now
        return line

    def _regular_line(self, now: float) -> str | None:
        if now - self._said < SAID_EVERY or self._done == self._steps:
            return None
        rate = (self._done - 1) / (now - self._started)
        left = (self._steps - self._done) / rate
        return (
            f"step {self._done} of {self._steps} of this epoch, {rate:.2g} steps/s, "
            f"{_text(left)} left in it"
        )

    def _first_line(self, now: float) -> str | None:
        if self._is_known:
            return None
        seconds = now - self._started
        if seconds < MEASURED_SECONDS:
            return None
        self._is_known = True
        epoch = seconds / (self._done - 1) * self._steps
        if epoch < WORTH_SAYING:
            return None
        return (
            f"an epoch of {self._steps} steps takes about {_text(epoch)}, without validation; "
            f"{self._epochs} epochs at most, {_text(epoch * self._epochs)}"
        )


def _text(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
