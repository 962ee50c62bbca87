"""Dask workers as SLURM jobs: the file that describes them, and their submission."""

import inspect
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
# Arguments of SLURMCluster that are set here, that are no plain values, or that it has given up.
NOT_IN_FILES = {
    *("self", "name", "scheduler", "loop", "asynchronous", "silence_logs", "n_workers"),
    *("job_cls", "scheduler_cls", "security", "config_name", "dashboard_address", "host"),
    *("extra", "job_extra", "env_extra", "header_skip", "project", "job_kwargs"),
    *("base_class_kwargs",),
}
WAIT_MINUTES = 60
# How often jobs that ended, by their time limit or by preemption, are submitted anew.
RESUBMIT_SECONDS = 30.0
CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class SlurmJobs:
    """Jobs to submit, each a worker; `arguments` are those of dask_jobqueue.SLURMCluster."""

    file: str
    count: int
    wait_minutes: float
    arguments: dict[str, Any]


def read_slurm_file(file: str) -> SlurmJobs:
    """Read the YAML file of `--dask slurm:FILE.yaml`.

    It is a mapping: `jobs` (how many), `wait_minutes` (until the first must run; default 60), and
    arguments of dask_jobqueue.SLURMCluster, of which `cores` and `memory` are needed; `processes`
    is 1 by default. Raises `InputError` for whatever cannot be submitted.
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
    return SlurmJobs(file, values.pop("jobs"), wait_minutes, {"processes": 1} | values)


@contextmanager
def open_slurm_cluster(jobs: SlurmJobs, loop: IOLoop) -> Iterator[str]:
    """Submit the jobs; yields the address of their scheduler, and cancels them on leaving.

    Raises `InputError` where sbatch is missing or refuses, or an argument has no usable value.
    """
    from dask_jobqueue.slurm import SLURMCluster

    if shutil.which("sbatch") is None:
        raise InputError(
            "--dask slurm: submits jobs with sbatch, which is not on this machine; run on a "
            "cluster's login node, or give --dask local:N"
        )
    scheduler = {"dashboard": False, "dashboard_address": ":0"}
    scheduler |= jobs.arguments.get("scheduler_options") or {}
    arguments = jobs.arguments | {"scheduler_options": scheduler}
    # Apart from its making, so that what is left of a failed one can be put away.
    cluster: Any = SLURMCluster.__new__(SLURMCluster)
    try:
        cluster.__init__(**arguments, loop=loop)
    except Exception as error:
        cluster.status = Status.closed
        if hasattr(cluster, "_loop_runner"):
            cluster._loop_runner.stop()
        raise InputError(f"{jobs.file}: {' '.join(str(error).split())}") from error

    async def submit() -> None:
        # `cluster.scale` does the same, but what sbatch answers then only comes to a log.
        await cluster._correct_state()

    async def submit_again() -> None:
        with suppress(Exception):
            await cluster._correct_state()

    async def close() -> None:
        # Dask asserts that what it made has ended; a job that was refused never began.
        cluster._created.clear()
        await cluster._close()

    async def watch() -> None:
        again = PeriodicCallback(submit_again, RESUBMIT_SECONDS * 1000)
        cluster.periodic_callbacks["submit again"] = again
        again.start()

    try:
        for _ in range(jobs.count):
            cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            sync(loop, submit)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"sbatch refuses {jobs.file}: {_complaint(error)}") from error
        sync(loop, watch)
        yield str(cluster.scheduler_address)
    finally:
        with suppress(TimeoutError):
            sync(loop, close, callback_timeout=CLOSE_SECONDS)
        cluster._loop_runner.stop()


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
            "--dask slurm: needs dask-jobqueue; install it with pip install 'declip-pipe[slurm]'"
        ) from error
    names = {
        name
        for kind in (JobQueueCluster, Job, SLURMJob)
        for name in inspect.signature(kind.__init__).parameters
    }
    return names - NOT_IN_FILES


def _complaint(error: Exception) -> str:
    """What sbatch said, without the report that is made around it."""
    said = re.search(r"stderr:\n(.*)", str(error), re.DOTALL)
    text = said[1] if said and said[1].strip() else str(error)
    return " ".join(text.replace("sbatch: error: ", "").split())
