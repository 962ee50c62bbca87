"""Dask without side effects: no log lines, no change to configuration, environment or signals."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask.config
from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

LOOP_CLOSE_SECONDS = 0.5
SILENT = logging.CRITICAL + 1
CONFIG = {
    "distributed.scheduler.allowed-failures": 3,
    # Their results are not used, and the profiler interrupts a worker 100 times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask's default gives every library one thread, and changes this process's environment too.
    "distributed.nanny.pre-spawn-environ": {},
    # By default a SLURM job is cancelled when its worker takes longer than 15 s to restart, as it
    # may where it imports from a slow disk.
    "distributed.deploy.lost-worker-timeout": "60s",
}


@contextmanager
def dask_loop() -> Iterator[IOLoop]:
    """Run an event loop for Dask in a thread that blocks SIGINT.

    A terminal sends Ctrl-C to all its processes. Workers that handled it would each print a
    traceback; only this process handles it, and closes them. Threads and processes inherit the
    blocked signals of the thread that starts them.
    """
    # Starting the resource tracker unblocks signals, so that thread must not start it. It would
    # print a warning when this process is killed before it can clean up.
    with _environment_restored():
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
        resource_tracker.ensure_running()
    runner: Any = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Tasks that closing interrupts are reported there, some of them long afterwards.
    runner.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
    try:
        yield runner.loop
    finally:
        runner.stop(timeout=LOOP_CLOSE_SECONDS)


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Configure Dask and silence its logs; restore configuration and environment on leaving."""
    handlers = {
        handler: handler.level
        for name in ("distributed", "tornado", "bokeh")
        for handler in logging.getLogger(name).handlers
    }
    with dask.config.set(CONFIG), _environment_restored():
        for handler in handlers:
            handler.setLevel(SILENT)
        try:
            yield
        finally:
            for handler, level in handlers.items():
                handler.setLevel(level)


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM on leaving: an interrupted closing leaves processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)
        if came:
            signal.raise_signal(came[0])
