"""Tasks on workers: handed out, retried where a worker is lost, and cancelled."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError
from declip_pipeline.jobs import worker as worker_side
from declip_pipeline.jobs.workers import GPU, Workers, scheduler_required, usable

POLL_SECONDS = 0.02
# Interval between two looks at which workers are connected.
LOOK_SECONDS = 1.0
# Looks without a worker before the user is told: a worker that restarts is away for a moment.
LONELY_LOOKS = 5
# Interval between two looks at the progress of running tasks.
FOLLOW_SECONDS = 2.0
# A result is stored on its worker, and may be lost with it.
ANSWER_SECONDS = 5.0
# Workers that may die one after another at a task that makes no progress.
DEATHS = 4


def run_tasks(
    workers: Workers,
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    at_once: int,
    title: Callable[[int], str],
    smaller: str,
    notice: Callable[[str], None],
    begun: Callable[[int], None] = lambda number: None,
    progressed: Callable[[int], bool] = lambda number: False,
) -> Generator[tuple[int, Any], None, None]:
    """Run `function(*arguments)` for every task; yield each task that ends.

    A task of a lost worker is given to the next free worker. Closing the generator cancels the
    running tasks.

    Args:
        workers: The workers; see `Workers.admit`.
        function: A function of a module that workers can import.
        tasks: Arguments of each task.
        at_once: Number of tasks that a worker is given at the same time.
        title: Name of a task in the error about dead workers, such as "this run".
        smaller: Parameter that takes less memory if it is smaller, such as "`batch_size`".
        notice: Called with lines for the user.
        begun: Called with the number of each task that is handed out for the first time.
        progressed: Called with the number of a running task now and then; returns whether the
            task has made progress since the last call.

    Yields:
        Number of a task, and what the function returned or the exception that ended the task.

    Raises:
        DeclipError: The scheduler is lost.
    """

    def died(number: int, deaths: int) -> DeclipError:
        return DeclipError(
            f"workers died at {title(number)} {deaths} times, out of memory or because their "
            f"machines were taken away; give them more memory or choose a smaller {smaller}, and "
            "run the same command again, it goes on where it stopped"
        )

    waiting = deque(_Task(number, arguments) for number, arguments in enumerate(tasks))
    dispatch = _Dispatch(workers, function, at_once, notice, begun, progressed, died, waiting)
    return dispatch.run()


@dataclass
class _Task:
    """A task: its arguments, and the worker that has it."""

    number: int
    arguments: tuple[Any, ...]
    worker: str = ""
    future: Any = None
    deaths: int = 0


@dataclass
class _Dispatch:
    """The state of one `run_tasks`.

    Each task is bound to one worker. Dask itself might queue a task behind one that takes hours
    while another worker is idle.
    """

    workers: Workers
    function: Callable[..., Any]
    at_once: int
    notice: Callable[[str], None]
    begun: Callable[[int], None]
    progressed: Callable[[int], bool]
    died: Callable[[int, int], DeclipError]
    waiting: deque[_Task]
    running: list[_Task] = field(default_factory=list)
    connected: dict[str, bool] = field(default_factory=dict)
    lonely_looks: int = 0

    def run(self) -> Generator[tuple[int, Any], None, None]:
        looked = followed = float("-inf")
        try:
            while self.waiting or self.running:
                with scheduler_required():
                    if time.monotonic() > looked + LOOK_SECONDS:
                        looked = time.monotonic()
                        self._look()
                    self._hand_out()
                    ended = [*self._ended(), *self._given_up()]
                yield from ended
                if time.monotonic() > followed + FOLLOW_SECONDS:
                    followed = time.monotonic()
                    for task in self.running:
                        self._follow(task)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            self._cancel(self.running)

    def _look(self) -> None:
        """Update the connected workers; tell the user when there has been none for long."""
        self.connected = self.workers.connected()
        self.lonely_looks = 0 if self.connected else self.lonely_looks + 1
        if self.lonely_looks == LONELY_LOOKS:
            self.notice("no worker is left; waiting for one to come")

    def _hand_out(self) -> None:
        """Give waiting tasks to the workers that have fewest."""
        if not self.waiting:
            return
        running = Counter(task.worker for task in self.running)
        loads = {worker: running[worker] for worker in usable(self.connected)}
        has_gpus = any(self.connected.values())
        while self.waiting and loads:
            worker = min(loads, key=lambda worker: loads[worker])
            if loads[worker] >= self.at_once:
                return
            if not self.workers.is_fit(worker, self.notice):
                del loads[worker]
                continue
            task = self.waiting.popleft()
            is_new = task.future is None
            self._submit(task, worker, has_gpus)
            self.running.append(task)
            loads[worker] += 1
            if is_new:
                self.begun(task.number)

    def _submit(self, task: _Task, worker: str, has_gpus: bool) -> None:
        untyped: Any = self.workers.client.submit
        task.worker = worker
        task.future = untyped(
            worker_side.perform,
            __version__,
            self.at_once,
            self.function,
            task.arguments,
            pure=False,
            workers=[worker],
            # Other programs may use the same workers.
            resources={GPU: 1 / self.at_once} if has_gpus else None,
        )

    def _ended(self) -> Generator[tuple[int, Any], None, None]:
        """Take the tasks that have ended, however they ended."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        outcome: Any
        for task in list(self.running):
            if not task.future.done():
                continue
            try:
                answer: worker_side.Answer = task.future.result(timeout=ANSWER_SECONDS)
            except TimeoutError:
                continue  # the worker is lost, or sends the result in a moment
            except CancelledError:
                raise
            except KilledWorker as error:
                outcome = self.died(task.number, error.allowed_failures + 1)
            except Exception as error:
                outcome = error
            else:
                outcome = answer.result
                for line in answer.notices:
                    self.notice(f"the worker on {answer.host}: {line}")
            self.running.remove(task)
            yield task.number, outcome

    def _given_up(self) -> Generator[tuple[int, Any], None, None]:
        """Take tasks back from lost workers; give up those at which too many workers died."""
        for task in [task for task in self.running if task.worker not in self.connected]:
            self.running.remove(task)
            self._cancel([task])
            self._follow(task)
            task.deaths += 1
            if task.deaths < DEATHS:
                self.waiting.appendleft(task)
            else:
                yield task.number, self.died(task.number, task.deaths)

    def _follow(self, task: _Task) -> None:
        if self.progressed(task.number):
            # Machines may be taken away again and again; the task is not to blame.
            task.deaths = 0

    def _cancel(self, tasks: Iterable[_Task]) -> None:
        if futures := [task.future for task in tasks]:
            self.workers.client.cancel(futures)  # type: ignore[no-untyped-call]
