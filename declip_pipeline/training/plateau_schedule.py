"""The paper's learning rate schedule: a tenth at each plateau, down to a minimum."""

from dataclasses import asdict, dataclass
from typing import Any

FIRST_DELTA = 0.001
LATER_DELTA = 0.002
FACTOR = 0.1


@dataclass
class PlateauSchedule:
    """Schedule that decides after each epoch whether training continues, and at which rate.

    An epoch counts against the patience unless its score (percent) exceeds the best of the current
    count by `FIRST_DELTA`. When the patience is used up, the learning rate falls to a tenth and a
    new count begins, with `LATER_DELTA` and without the earlier best scores, as in the reference.
    Training stops once the rate would fall below `minimum_learning_rate`.

    Source: the reference's training loop (DeCLIP, arXiv 2409.08849, supplementary material).
    """

    learning_rate: float = 1e-3
    patience: int = 5
    minimum_learning_rate: float = 1e-6
    best_of_count: float | None = None
    epochs_without_gain: int = 0
    delta: float = FIRST_DELTA
    stopped: bool = False

    def after_step(self) -> None:
        """Leave the schedule as it is: it goes by epochs."""

    def after_epoch(self, score: float) -> None:
        """Update the schedule by an epoch's validation score, IoU or AP in percent."""
        if self.best_of_count is None or score > self.best_of_count + self.delta:
            self.best_of_count = score
            self.epochs_without_gain = 0
            return
        self.epochs_without_gain += 1
        if self.epochs_without_gain < self.patience:
            return
        lower = self.learning_rate * FACTOR
        # 1e-3 divided by ten three times is 1e-6 up to rounding; that step is still taken.
        if lower < self.minimum_learning_rate * (1 - 1e-6):
            self.stopped = True
            return
        self.learning_rate = lower
        self.best_of_count = None
        self.epochs_without_gain = 0
        self.delta = LATER_DELTA

    def to_state(self) -> dict[str, Any]:
        """Return the state as plain values; `PlateauSchedule(**state)` restores it."""
        return asdict(self)
