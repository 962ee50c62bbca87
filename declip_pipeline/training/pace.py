"""Pace of a training: seconds of an epoch and time left, said after its first steps."""

import time
from datetime import timedelta

import torch

MEASURED_SECONDS = 2.0
"""Seconds of steps after which a pace is known; the first step, which warms up, is left out."""

WORTH_SAYING = 10.0
"""Seconds of an epoch below which nothing is said: its own line comes soon."""


class Pace:
    """Time of the steps of an epoch so far."""

    def __init__(self, steps: int, epochs: int, device: torch.device) -> None:
        """Begin to measure.

        Args:
            steps: Number of steps of an epoch.
            epochs: Most epochs that are left, this one included.
            device: Device that computes.
        """
        self._steps, self._epochs, self._device = steps, epochs, device
        self._done = 0
        self._started = 0.0
        self._is_known = False

    def after_step(self) -> str | None:
        """Count a step; once a pace is known, and worth it, return a line about it, once."""
        if self._is_known:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._done += 1
        now = time.perf_counter()
        if self._done == 1:
            self._started = now
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
