"""Dask workers as SLURM jobs: the file that describes them, and their submission."""

import asyncio
import inspect
import re
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from distributed.core import Status
from distributed.utils import sync
from tornado.ioloop import IOLoop, PeriodicCallback

from declip_pipeline.errors import InputError, UnknownNameError

NEEDED = ("jobs", "cores", "memory")
LISTS = (
    "job_extra_directives",
    "job_script_prologue",
    "worker_extra_args",
    "job_directives_skip",
)
# Arguments of SLURMCluster that are set here, that are no plain values, or that it deprecates.
NOT_IN_FILES = {
    *("self", "name", "scheduler", "loop", "asynchronous", "silence_logs", "n_workers"),
    *("job_cls", "scheduler_cls", "security", "config_name", "dashboard_address", "host"),
    *("extra", "job_extra", "env_extra", "header_skip", "project", "job_kwargs"),
    *("base_class_kwargs", "shared_temp_directory"),
}
WAIT_MINUTES = 60
# Interval at which jobs are submitted in place of those that ended by time limit or preemption.
RESUBMIT_SECONDS = 30.0
CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class SlurmSettings:
    """Settings of the jobs to submit.

    Args:
        file: The file with the settings.
        count: Number of jobs.
        wait_minutes: Minutes that the first job may wait in the queue.
        arguments: Arguments of dask_jobqueue's `SLURMCluster`.
    """

    file: str
    count: int
    wait_minutes: float
    arguments: dict[str, Any]


def read_slurm_file(file: str) -> SlurmSettings:
    """Read the settings of SLURM jobs.

    Args:
        file: Path of a YAML file with a mapping: `jobs` (their number), `wait_minutes` (until the
            first job must run; default 60), and arguments of dask_jobqueue's `SLURMCluster`, of
            which `cores` and `memory` are required; `processes` is 1 by default.

    Raises:
        InputError: The file cannot be read, or a key or value in it is not usable.
    """
    values = _mapping(file)
    known = {*_cluster_arguments(), "jobs", "wait_minutes"}
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key in {file}", str(key), sorted(known))
    missing = [key for key in NEEDED if values.get(key) is None]
    if missing:
        raise InputError(f"{file} lacks {', '.join(missing)}; see configs/slurm.yaml for all keys")
    for key in ("jobs", "cores", "processes", "job_cpu"):
        if key in values and (type(values[key]) is not int or values[key] < 1):
            raise InputError(f"{file}: {key} is {values[key]!r}; expected a whole number from 1 on")
    wait_minutes = values.pop("wait_minutes", WAIT_MINUTES)
    if type(wait_minutes) not in (int, float) or not 0 < wait_minutes < float("inf"):
        raise InputError(f"{file}: wait_minutes is {wait_minutes!r}; expected minutes above 0")
    for key in LISTS:
        if not isinstance(values.get(key, []), list):
            raise InputError(f"{file}: {key} is {values[key]!r}; expected a list, - on each line")
    if not isinstance(values.get("walltime", ""), str):
        # YAML reads 24:00:00 as a number of seconds, and SLURM takes a number for minutes.
        raise InputError(f'{file}: walltime is a number; expected a text in quotes: "24:00:00"')
    return SlurmSettings(file, values.pop("jobs"), wait_minutes, {"processes": 1} | values)


@contextmanager
def slurm_workers(settings: SlurmSettings, loop: IOLoop) -> Iterator[str]:
    """Start a scheduler and submit its workers as jobs; cancel them on leaving.

    Yields:
        Address of the scheduler.

    Raises:
        InputError: sbatch is missing or refuses a job, or a setting has no usable value.
    """
    if shutil.which("sbatch") is None:
        raise InputError(
            '`dask="slurm:"` submits jobs with sbatch, which is not on this machine; run on a '
            'cluster\'s login node, or give `dask="local:N"`'
        )
    busy, stack = asyncio.Lock(), AsyncExitStack()

    async def start() -> str:
        async with busy:
            try:
                cluster: Any = await stack.enter_async_context(_cluster(settings, loop))
            except Exception as error:
                raise InputError(f"{settings.file}: {' '.join(str(error).split())}") from error
            for _ in range(settings.count):
                cluster.worker_spec.update(cluster.new_worker_spec())
            try:
                await cluster  # `cluster.scale` would only log what sbatch answers
            except (RuntimeError, ValueError, OSError) as error:
                raise InputError(f"sbatch refuses {settings.file}: {_complaint(error)}") from error
            again = PeriodicCallback(partial(_submit_again, cluster), RESUBMIT_SECONDS * 1000)
            stack.callback(again.stop)
            again.start()
            return str(cluster.scheduler_address)

    async def stop() -> None:
        # An interrupted start goes on in its thread: its jobs are cancelled, too.
        async with busy:
            await stack.aclose()

    try:
        yield sync(loop, start)
    finally:
        with suppress(TimeoutError):
            sync(loop, stop, callback_timeout=CLOSE_SECONDS)


def _cluster(settings: SlurmSettings, loop: IOLoop) -> Any:
    """Return a cluster that has not started; called in the thread of `loop`."""
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

    class Job(SLURMJob):
        """Job whose status says how it ended, which a closing cluster asserts."""

        async def start(self) -> None:
            try:
                await super().start()  # type: ignore[no-untyped-call]
            except Exception:
                self.status = Status.failed
                raise

        async def close(self) -> None:
            await super().close()  # type: ignore[no-untyped-call]
            self.status = Status.closed

    arguments = dict(settings.arguments)
    options = {"dashboard": False, "dashboard_address": ":0"}
    options |= arguments.pop("scheduler_options", None) or {}
    # A cluster that fails to initialize warns later on, a job does not.
    make: Any = Job
    make("tcp://localhost:1", name="", **arguments)
    make = SLURMCluster
    return make(**arguments, scheduler_options=options, job_cls=Job, loop=loop, asynchronous=True)


async def _submit_again(cluster: Any) -> None:
    """Submit jobs in place of those that ended or were refused meanwhile."""
    for name, job in list(cluster.workers.items()):
        if job.status == Status.failed:
            del cluster.workers[name]
    with suppress(Exception):
        await cluster


def _mapping(file: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read; expected a YAML file such as configs/slurm.yaml"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no settings; expected keys and values: jobs, cores, memory")
    return values


def _cluster_arguments() -> set[str]:
    try:
        from dask_jobqueue.core import Job, JobQueueCluster
        from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        raise InputError(
            '`dask="slurm:"` needs dask-jobqueue; install it with '
            "pip install 'declip-pipe[slurm]'"
        ) from error
    names = {
        name
        for kind in (JobQueueCluster, Job, SLURMJob)
        for name in inspect.signature(kind.__init__).parameters
    }
    return names - NOT_IN_FILES


def _complaint(error: Exception) -> str:
    """Return what sbatch printed, without dask-jobqueue's report around it."""
    said = re.search(r"stderr:\n(.*)", str(error), re.DOTALL)
    text = said[1] if said and said[1].strip() else str(error)
    return " ".join(text.replace("sbatch: error: ", "").split())
