"""Keeping Dask to itself: its log lines, its configuration, its threads' signals."""

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
    # Nobody looks at what these gather, and the profiler interrupts a worker 100 times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask's own give every library one thread, and change this process's environment too.
    "distributed.nanny.pre-spawn-environ": {},
    # By default a job is cancelled when its worker takes longer than 15 s to start again, as it
    # may where it imports from a slow disk.
    "distributed.deploy.lost-worker-timeout": "60s",
}


@contextmanager
def dask_loop() -> Iterator[IOLoop]:
    """A thread that runs Dask's side of things, and from which no process gets Ctrl-C.

    Ctrl-C goes to every process of a terminal. Workers that answered it would each print where
    they were; this process answers it alone, and closes them. A blocked signal is handed down to
    the threads and processes that a thread starts, from their first moment on.
    """
    # Starting this process unblocks signals, so it must not be started from that thread. It would
    # complain where this one is killed and cannot clear up.
    with _environment_restored():
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
        resource_tracker.ensure_running()
    runner: Any = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # What a closing tears from its work is reported there, some of it long after.
    runner.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
    try:
        yield runner.loop
    finally:
        runner.stop(timeout=LOOP_CLOSE_SECONDS)


@contextmanager
def quiet_dask() -> Iterator[None]:
    """Dask's own configuration and environment, and no log lines, for as long as it is used."""
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
def undisturbed() -> Iterator[None]:
    """Signals wait: a closing that is torn leaves processes behind."""
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
