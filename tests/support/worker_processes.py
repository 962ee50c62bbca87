"""Functions that tests run inside workers, and a cluster that runs by itself."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from declip_pipeline.jobs import worker

PROGRAM = """
import dask, sys
from distributed import LocalCluster

if __name__ == "__main__":
    # Dask's own workers compute with one thread, which changes the last bits.
    dask.config.set({"distributed.nanny.pre-spawn-environ": {}})
    with LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs=60
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def pid() -> int:
    return os.getpid()


def pretend_version(version: str) -> None:
    worker.__version__ = version


async def declare_gpu(dask_worker) -> None:
    await dask_worker.set_resources(GPU=1)


@dataclass(frozen=True)
class SeparateCluster:
    """A scheduler and a worker in processes of their own."""

    address: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def separate_cluster(folder: Path) -> Iterator[SeparateCluster]:
    """Start a cluster that lives until it is killed or the context is left."""
    script = folder / "cluster.py"
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield SeparateCluster(process.stdout.readline().strip(), process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def all_end(processes: list[psutil.Process]) -> bool:
    """Whether all processes end; some stay zombies until their new parent reads their status."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def loops() -> int:
    """Number of threads that run an event loop of Dask."""
    return [thread.name for thread in threading.enumerate()].count("IO loop")
