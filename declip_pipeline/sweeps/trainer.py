"""Training the groups of a grid on Dask workers: what the grid sends, and what a worker does."""

import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.jobs import worker
from declip_pipeline.jobs.tasks import run_tasks
from declip_pipeline.jobs.workers import Workers
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import absolute_location
from declip_pipeline.store.tokens import require_token, token_at
from declip_pipeline.sweeps.grid import EpochScore, Outcomes
from declip_pipeline.sweeps.grid_job import Cell, GridJob
from declip_pipeline.sweeps.grid_trainer import GridTrainer
from declip_pipeline.training.run import Run
from declip_pipeline.training.train import Epoch

if TYPE_CHECKING:
    from distributed import Client

SHARED_DISK = "a disk that all workers mount at the same path"


class WorkerTraining:
    """Trains the cells of a job on the workers of a Dask client: the `RunGroups` of a `Grid`.

    A worker is given one group at a time. Workers that connect later take part. A group whose
    worker is lost continues from its runs' checkpoints on the next free worker.
    """

    def __init__(
        self,
        client: "Client",
        job: GridJob,
        cells: Sequence[Cell],
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Check the workers.

        Args:
            client: The workers' client.
            job: The job; `job.device` is the workers' device.
            cells: All cells that may be trained.
            notice: Called with lines for the user.

        Raises:
            InputError: A worker has another version of this package, sees other stores or another
                folder of runs than this process, or would compute differently from the others.
        """
        self._workers = Workers(client)
        self._notice = notice
        runs = Path(job.runs)
        self._job = job = replace(
            job,
            stores=tuple(absolute_location(place) for place in job.stores),
            beside=tuple((absolute_location(place), layer) for place, layer in job.beside),
            runs=absolute_location(job.runs),
            # A name such as "auto" might choose another device on a worker that connects later.
            device=self._workers.device_kind(job.device),
        )
        identities = [Store(place).identity.sha256 for place in _store_places(job)]

        def check(addresses: list[str] | None) -> dict[str, list[str]]:
            with token_at(job.runs) as (_, token):
                return self._workers.ask(
                    _plan_runs, job, list(cells), identities, token, workers=addresses
                )

        names = self._workers.admit(
            check,
            differing="it would compute in another precision",
            remedy="the workers' processors differ, they would compute in different precisions; "
            "name one with `precision`",
        )
        self._folders = {cell: Run(runs / name) for cell, name in zip(cells, names, strict=True)}

    def split(self, groups: Sequence[list[int]]) -> list[list[int]]:
        """Halve the largest groups until there is one for each worker, and return them.

        A run's result does not depend on which runs are trained beside it.
        """
        parts = list(groups)
        while len(parts) < len(self._workers.usable()):
            place = max(range(len(parts)), key=lambda place: len(parts[place]))
            middle = len(parts[place]) // 2
            if not middle:
                break
            parts[place : place + 1] = [parts[place][:middle], parts[place][middle:]]
        return parts

    def __call__(
        self,
        cells: Sequence[Cell],
        groups: Sequence[list[int]],
        begun: Callable[[list[int]], None],
        learned: Callable[[int, Sequence[EpochScore]], None],
    ) -> Generator[tuple[list[int], Outcomes], None, None]:
        """Train the groups; see `RunGroups`. Raises `DeclipError` when the scheduler is lost."""
        told: dict[int, int] = {}

        def progressed(place: int) -> bool:
            """Report the new epochs in the folders of a group's runs."""
            before = sum(told.values())
            for number in groups[place]:
                try:
                    records = self._folders[cells[number]].epochs()
                except (InputError, OSError):
                    continue  # the worker will report what is wrong with the folder
                if new := records[told.get(number, 0) :]:
                    told[number] = len(records)
                    epochs = [Epoch.from_json(record) for record in new]
                    learned(number, [(epoch.epoch, epoch.valid_score) for epoch in epochs])
            return sum(told.values()) > before

        def title(place: int) -> str:
            runs = len(groups[place])
            return "this run" if runs == 1 else f"these {runs} runs"

        ended = run_tasks(
            self._workers,
            _train_group,
            [(self._job, [cells[number] for number in group]) for group in groups],
            at_once=1,
            notice=self._notice,
            begun=lambda place: begun(groups[place]),
            progressed=progressed,
            title=title,
            smaller="`micro_batch_size`",
        )
        with closing(ended):
            for place, outcome in ended:
                group = groups[place]
                errors = [outcome] * len(group) if isinstance(outcome, Exception) else outcome
                yield (
                    group,
                    [
                        self._folders[cells[number]] if error is None else error
                        for number, error in zip(group, errors, strict=True)
                    ],
                )

    def release(self) -> None:
        """Drop the stores and features that workers keep: those of a scheduler live on."""
        self._workers.release()


def _store_places(job: GridJob) -> list[str]:
    return [*job.stores, *(place for place, _ in job.beside)]


def _plan_runs(
    job: GridJob, cells: Sequence[Cell], identities: Sequence[str], token: str
) -> list[str]:
    """In a worker: return the names of the cells' runs, as this worker would train them.

    Args:
        job: The job.
        cells: The cells.
        identities: SHA-256 of the identities of `_store_places(job)`.
        token: Token in the folder of the runs.

    Raises:
        InputError: The worker does not see the same stores or the token.
    """
    worker.forget()  # a store may have been written again since
    host = socket.gethostname()
    for place, sha256 in zip(_store_places(job), identities, strict=True):
        try:
            found = Store(place).identity.sha256
        except DeclipError as error:
            raise InputError(
                f"the worker on {host} cannot use the store {place}: {error}; keep stores on "
                f"{SHARED_DISK}, or in a bucket"
            ) from error
        if found != sha256:
            raise InputError(
                f"the worker on {host} sees another store at {place}, {found[:12]} instead of "
                f"{sha256[:12]}; keep stores on {SHARED_DISK}, or in a bucket"
            )
    require_token(job.runs, token, "`runs`", SHARED_DISK)
    trainer = _trainer(job)
    return [trainer.plan(cell).folder.path.name for cell in cells]


def _train_group(job: GridJob, cells: Sequence[Cell]) -> list[DeclipError | None]:
    """In a worker: train the cells side by side; return why each run did not end, or None.

    Finished runs are left alone, others continue from their checkpoints. A cancelled training
    stops after its current epoch.
    """
    outcomes = _trainer(job).train(cells, lambda number, epoch: worker.require_wanted())
    return [outcome if isinstance(outcome, DeclipError) else None for outcome in outcomes]


def _trainer(job: GridJob) -> GridTrainer:
    return worker.keep("trainer", job, lambda: GridTrainer(job, worker.notice))
