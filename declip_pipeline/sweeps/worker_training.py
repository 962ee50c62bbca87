"""Training a grid on Dask workers: what they are asked before, and what they are given to do."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from declip_pipeline import __version__
from declip_pipeline.dask_workers import GPU, DaskWorkers
from declip_pipeline.errors import InputError
from declip_pipeline.store.reader import Store
from declip_pipeline.store.shared_place import token_at
from declip_pipeline.store.storage import absolute_location
from declip_pipeline.sweeps.grid import EpochScore, Outcomes
from declip_pipeline.sweeps.grid_job import Cell, GridJob
from declip_pipeline.sweeps.group_dispatch import GroupDispatch
from declip_pipeline.sweeps.worker_task import forget, plan_runs, store_places, train_group
from declip_pipeline.training.run_folder import RunFolder

if TYPE_CHECKING:
    from distributed import Client


class WorkerTraining:
    """Trains the cells of a job on the workers of a Dask client: the `RunGroups` of a `Grid`.

    A worker is given one group at a time; one that comes later takes part. A group whose worker is
    lost goes on from its runs' checkpoints on the next one that is free.
    """

    def __init__(
        self,
        client: "Client",
        job: GridJob,
        cells: Sequence[Cell],
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Ask the workers whether they can; `job.device` is theirs.

        Raises `InputError` unless every worker has this version, sees the stores and the folder of
        the runs as they are here, and computes as the others do.
        """
        self._workers = DaskWorkers(client)
        self._notice = notice
        self._job = replace(
            job,
            stores=tuple(absolute_location(place) for place in job.stores),
            beside=tuple((absolute_location(place), layer) for place, layer in job.beside),
            runs=absolute_location(job.runs),
            # For workers that come later, too.
            device=self._workers.device_kind(job.device),
        )
        self._cells = list(cells)
        self._identities = [Store(place).identity.sha256 for place in store_places(self._job)]
        plans = self._plans(None)
        self._names = next(iter(plans.values()))
        if any(names != self._names for names in plans.values()):
            raise InputError(
                "the workers' processors differ, they would compute in different precisions; "
                "name one with --precision"
            )
        self._fit = dict.fromkeys(plans, True)
        self._folders = {
            cell: RunFolder(Path(job.runs, name))
            for cell, name in zip(self._cells, self._names, strict=True)
        }

    def split(self, groups: Sequence[list[int]]) -> list[list[int]]:
        """These groups, the largest halved until there is one for each worker.

        A run is the same in any company.
        """
        parts = list(groups)
        while len(parts) < len(self._workers.present()):
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
        """Have the groups trained. Raises `DeclipError` when the scheduler is lost."""

        def submit(worker: str, numbers: list[int]) -> Any:
            untyped: Any = self._workers.client.submit
            # To this worker and no other: Dask may put a second group behind one that takes hours,
            # while another worker has nothing to do.
            return untyped(
                train_group,
                self._job,
                __version__,
                [cells[number] for number in numbers],
                pure=False,
                workers=[worker],
                resources={GPU: 1} if self._workers.has_gpus() else None,
            )

        dispatch = GroupDispatch(
            self._workers,
            [self._folders[cell] for cell in cells],
            submit=submit,
            is_fit=self._is_fit,
            begun=begun,
            learned=learned,
            notice=self._notice,
        )
        return dispatch.run(groups)

    def release(self) -> None:
        """Let the workers forget what they read: those of a scheduler live on."""
        self._workers.client.run(forget, on_error="ignore")

    def _is_fit(self, worker: str) -> bool:
        """Whether a worker can take part: one that came later is asked what all were."""
        if worker not in self._fit:
            reason = "it would compute in another precision"
            try:
                self._fit[worker] = self._plans([worker]).get(worker) == self._names
            except InputError as error:
                self._fit[worker], reason = False, str(error)
            if not self._fit[worker]:
                self._notice(f"the worker {worker} is left out: {reason}")
        return self._fit[worker]

    def _plans(self, workers: list[str] | None) -> dict[str, list[str]]:
        """The names that workers would give to the runs, by the worker's address."""
        with token_at(self._job.runs) as (_, token):
            return self._workers.ask(
                plan_runs,
                self._job,
                __version__,
                self._cells,
                self._identities,
                token,
                workers=workers,
            )
