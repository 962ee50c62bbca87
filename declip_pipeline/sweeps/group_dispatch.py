"""Groups of a grid handed out to Dask workers, and taken back from those that die."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from declip_pipeline.dask_workers import POLL_SECONDS, DaskWorkers, Lookout, scheduler_needed
from declip_pipeline.errors import InputError, TrainingError
from declip_pipeline.sweeps.grid import EpochScore, Outcomes
from declip_pipeline.sweeps.worker_task import TrainedGroup
from declip_pipeline.training.run_folder import RunFolder
from declip_pipeline.training.train import Epoch

# Between two looks at how far the runs are.
FOLLOW_SECONDS = 2.0
# An answer lies on its worker, and may be lost with it.
ANSWER_SECONDS = 5.0
# Workers that may die at a group one after another, without an epoch between them.
DEATHS = 4


@dataclass
class _Group:
    """Cells that are trained side by side, by their numbers: how far they are, and in what task."""

    numbers: list[int]
    is_begun: bool = False
    deaths: int = 0
    told: dict[int, int] = field(default_factory=dict)
    task: Any = None


class GroupDispatch:
    """Gives each worker one group at a time, and a lost worker's group to the next that is free.

    `submit` begins a group on a worker, as a task that ends in a `TrainedGroup`; `is_fit` says
    whether a worker may be given any. `folders` are those of the cells' runs. `begun` and `learned`
    are those of `RunGroups`.
    """

    def __init__(
        self,
        workers: DaskWorkers,
        folders: Sequence[RunFolder],
        *,
        submit: Callable[[str, list[int]], Any],
        is_fit: Callable[[str], bool],
        begun: Callable[[list[int]], None],
        learned: Callable[[int, Sequence[EpochScore]], None],
        notice: Callable[[str], None],
    ) -> None:
        self._workers = workers
        self._folders = folders
        self._submit = submit
        self._is_fit = is_fit
        self._begun = begun
        self._learned = learned
        self._notice = notice
        self._waiting: deque[_Group] = deque()
        self._under_way: dict[str, _Group] = {}

    def run(self, groups: Sequence[list[int]]) -> Generator[tuple[list[int], Outcomes], None, None]:
        """Yields each group as it ends. Raises `DeclipError` when the scheduler is lost."""
        self._waiting.extend(_Group(list(numbers)) for numbers in groups)
        lookout, followed = Lookout(self._workers, self._notice), time.monotonic()
        try:
            while self._waiting or self._under_way:
                with scheduler_needed():
                    present = lookout.look()
                    self._hand_out(present)
                    ended = [*self._ended(), *self._given_up(present)]
                yield from ended
                if time.monotonic() > followed + FOLLOW_SECONDS:
                    followed = time.monotonic()
                    for group in self._under_way.values():
                        self._follow(group)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            self._cancel(self._under_way.values())

    def _hand_out(self, present: Sequence[str]) -> None:
        for worker in present:
            if self._waiting and worker not in self._under_way and self._is_fit(worker):
                group = self._under_way[worker] = self._waiting.popleft()
                group.task = self._submit(worker, group.numbers)
                if not group.is_begun:
                    group.is_begun = True
                    self._begun(group.numbers)

    def _ended(self) -> Generator[tuple[list[int], Outcomes], None, None]:
        """Groups whose task came to an end, whatever it is."""
        for worker, group in list(self._under_way.items()):
            outcomes = self._outcomes(group)
            if outcomes is not None:
                del self._under_way[worker]
                yield group.numbers, outcomes

    def _outcomes(self, group: _Group) -> Outcomes | None:
        """What came of a group; None while nothing has."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        if not group.task.done():
            return None
        try:
            done: TrainedGroup = group.task.result(timeout=ANSWER_SECONDS)
        except TimeoutError:
            return None  # its worker is gone, or will have the answer in a moment
        except CancelledError:
            raise
        except KilledWorker as error:
            return _killing(group, error.allowed_failures + 1)
        except Exception as error:
            return [error] * len(group.numbers)
        for line in done.notices:
            self._notice(f"the worker on {done.worker}: {line}")
        return [
            self._folders[number] if error is None else error
            for number, error in zip(group.numbers, done.errors, strict=True)
        ]

    def _given_up(
        self, present: Sequence[str]
    ) -> Generator[tuple[list[int], Outcomes], None, None]:
        """Take groups back from lost workers; those that killed too many are given up."""
        for worker in self._under_way.keys() - set(present):
            group = self._under_way.pop(worker)
            self._cancel([group])
            self._follow(group)
            group.deaths += 1
            if group.deaths < DEATHS:
                self._waiting.appendleft(group)
            else:
                yield group.numbers, _killing(group, group.deaths)

    def _follow(self, group: _Group) -> None:
        """Tell what the folders of a group's runs have of new epochs."""
        for number in group.numbers:
            try:
                records = self._folders[number].epochs()
            except (InputError, OSError):
                continue  # what is wrong with it, its worker says
            new = records[group.told.get(number, 0) :]
            if new:
                group.told[number] = len(records)
                # Machines are taken away again and again; what gets on between is not to blame.
                group.deaths = 0
                epochs = [Epoch.from_json(record) for record in new]
                self._learned(number, [(each.epoch, each.valid_score) for each in epochs])

    def _cancel(self, groups: Iterable[_Group]) -> None:
        if tasks := [group.task for group in groups]:
            self._workers.client.cancel(tasks)  # type: ignore[no-untyped-call]


def _killing(group: _Group, deaths: int) -> Outcomes:
    what = "this run" if len(group.numbers) == 1 else f"these {len(group.numbers)} runs"
    error = TrainingError(
        f"workers died at {what} {deaths} times, for want of memory or because their machines were "
        "taken away; give them more memory or take a smaller --micro-batch-size, and run the same "
        "command again, it goes on where it stopped"
    )
    return [error] * len(group.numbers)
