"""What runs in a Dask worker for a grid: the check that it can, and the training of a group."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from declip_pipeline.dask_workers import require_version
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.store.reader import Store
from declip_pipeline.store.shared_place import require_token
from declip_pipeline.sweeps.grid_job import Cell, GridJob
from declip_pipeline.sweeps.trainer import GridTrainer
from declip_pipeline.training.train import Epoch

SHARED_DISK = "a disk that all workers mount at the same path"

# However many threads a worker has: one training fills its memory, and its cores or its GPU.
_training = Lock()


@dataclass(frozen=True)
class TrainedGroup:
    """What a worker tells of a group: who it is, what it noticed, and why a run did not end."""

    worker: str
    notices: list[str]
    errors: list[DeclipError | None]


class _UnwantedError(Exception):
    """The task was cancelled; Dask itself can only wait for its end."""


def store_places(job: GridJob) -> list[str]:
    """Where all stores of a job are."""
    return [*job.stores, *(place for place, _ in job.beside)]


def plan_runs(
    job: GridJob, version: str, cells: Sequence[Cell], identities: Sequence[str], token: str
) -> list[str]:
    """The names of the cells' runs, as this worker would train them.

    `identities` are those of `store_places`, `token` lies in the folder of the runs. Raises
    `InputError` unless the worker has this version and sees all of it.
    """
    require_version(version)
    forget()  # a store may have been made anew since
    host = socket.gethostname()
    for place, sha256 in zip(store_places(job), identities, strict=True):
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
    require_token(job.runs, token, "-o", SHARED_DISK)
    trainer, _ = _open_trainer(job)
    return [trainer.plan(cell).folder.path.name for cell in cells]


def train_group(job: GridJob, version: str, cells: Sequence[Cell]) -> TrainedGroup:
    """The task: runs that are finished are left alone, others go on from their checkpoints.

    One that is cancelled stops after the epoch that it is at.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    key, host = worker.get_current_task(), socket.gethostname()

    def require_wanted(*_: int | Epoch) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise _UnwantedError("nobody waits for this training any more")

    with _training:
        require_wanted()
        try:
            require_version(version)
            trainer, notices = _open_trainer(job)
            outcomes = trainer.train(cells, require_wanted)
        except DeclipError as error:
            error.args = (f"the worker on {host}: {error}",)
            raise
    said = [notices.pop(0) for _ in range(len(notices))]
    errors = [each if isinstance(each, DeclipError) else None for each in outcomes]
    return TrainedGroup(host, said, errors)


def forget() -> None:
    """Let go of the stores and the features that were kept for a next group."""
    _open_trainer.cache_clear()


@lru_cache(maxsize=1)
def _open_trainer(job: GridJob) -> tuple[GridTrainer, list[str]]:
    notices: list[str] = []
    return GridTrainer(job, notices.append), notices
