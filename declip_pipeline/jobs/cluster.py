"""Dask clients: worker processes on this machine, SLURM jobs, or a scheduler that runs already."""

import asyncio
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Nanny, Scheduler, Security
from distributed.core import Status, rpc
from distributed.utils import sync
from tornado.ioloop import IOLoop

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.jobs.quiet import SILENT, dask_loop, deferred_signals, quiet_dask
from declip_pipeline.jobs.slurm import read_slurm_file, slurm_workers

FORMS = (
    'expected `dask="local:N"` (N worker processes here), `dask="slurm:FILE.yaml"` (SLURM jobs), '
    'or `scheduler="tcp://HOST:PORT"` (one that runs already)'
)
WORKER_THREADS = 2
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 60.0
# Parts of the five seconds that closing may take; mostly it takes one second in all.
WORKER_CLOSE_SECONDS = 0.5
CLUSTER_CLOSE_SECONDS = 2.5
CLIENT_CLOSE_SECONDS = 1.0


@contextmanager
def open_client(
    *,
    dask: str | None = None,
    scheduler: str | None = None,
    notice: Callable[[str], None] = lambda line: None,
) -> Iterator[Client]:
    """Open a client that has at least one worker.

    Leaving closes in under 5 s everything that was opened for it. Exactly one of `dask` and
    `scheduler` must be given.

    Args:
        dask: "local:N" for N worker processes of two threads each, or "slurm:FILE.yaml" for SLURM
            jobs (see `read_slurm_file`). On a machine with GPUs each local worker gets a GPU of
            its own and declares the Dask resource GPU=1.
        scheduler: Address of a scheduler that runs already, tcp://HOST:PORT. It is left running.
        notice: Called with a line for the user when the first worker is waited for.

    Raises:
        InputError: The cluster is given in another form, asks for more workers than GPUs or has a
            SLURM file that is not usable; a job is refused; no scheduler answers at the address;
            or no worker connects in time.
    """
    if (dask is None) == (scheduler is None):
        both = "both workers and a scheduler are given" if dask else "no Dask cluster is given"
        raise InputError(f"{both}; {FORMS}")
    stack = ExitStack()
    try:
        stack.enter_context(quiet_dask())
        yield _open(stack, dask, scheduler, notice)
    finally:
        with deferred_signals():
            stack.close()


def _open(
    stack: ExitStack,
    dask: str | None,
    scheduler: str | None,
    notice: Callable[[str], None],
) -> Client:
    wait = WAIT_SECONDS
    if scheduler is not None:
        address = _address(scheduler)
        come = f"start some with `dask worker {address} --nthreads {WORKER_THREADS}`"
        loop = stack.enter_context(dask_loop())
    elif found := re.fullmatch(r"local:([1-9][0-9]{0,2})", str(dask)):
        environments = _worker_environments(int(found[1]))
        loop = stack.enter_context(dask_loop())
        address = stack.enter_context(_local_workers(environments, loop))
        come = "see whether the machine has memory left"
    elif found := re.fullmatch(r"slurm:(.+)", str(dask), re.DOTALL):
        jobs = read_slurm_file(found[1])
        loop = stack.enter_context(dask_loop())
        address = stack.enter_context(slurm_workers(jobs, loop))
        wait = jobs.wait_minutes * 60
        come = f"see `squeue --me` and the jobs' own files, or raise wait_minutes in {found[1]}"
    else:
        raise InputError(f"{dask!r} is not a Dask cluster; {FORMS}")
    client = stack.enter_context(_connected(address, loop))
    try:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            notice("waiting for the first worker")
        client.wait_for_workers(1, timeout=wait)
    except TimeoutError as error:
        raise InputError(
            f"no worker has come to {address} within {_duration(wait)}; {come}"
        ) from error
    except OSError as error:
        raise InputError(f"the Dask scheduler at {address} has gone; start it again") from error
    return client


@contextmanager
def _connected(address: str, loop: IOLoop) -> Iterator[Client]:
    secure: Any = Security
    call: Any = rpc
    connect: Any = Client

    async def ask_its_type() -> str:
        arguments = secure().get_connection_args("client")
        async with call(address, timeout=CONNECT_SECONDS, connection_args=arguments) as peer:
            return str((await peer.identity())["type"])

    async def ask_in_time() -> str:
        # A client itself waits for ever where another program listens.
        return await asyncio.wait_for(ask_its_type(), CONNECT_SECONDS)

    try:
        if (found := sync(loop, ask_in_time)) != "Scheduler":
            raise ValueError(f"expected a scheduler, found a {found}")
        with warnings.catch_warnings():
            # It warns of versions that differ between the machines.
            warnings.filterwarnings("ignore", category=UserWarning, module="distributed")
            client = connect(address, loop=loop, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS:.0f} s; start one "
            "with `dask scheduler`, which prints its address, or see why it cannot be reached"
        ) from error
    try:
        yield client
    finally:
        with suppress(TimeoutError, OSError):
            client.close(timeout=CLIENT_CLOSE_SECONDS)


@contextmanager
def _local_workers(environments: list[dict[str, str]], loop: IOLoop) -> Iterator[str]:
    """Start a scheduler and worker processes on this machine, one for each environment.

    Yields:
        Address of the scheduler.
    """
    servers: list[Any] = []
    stopping = asyncio.Event()

    async def start(scratch: str) -> str:
        scheduler = Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
        servers.append(scheduler)
        await scheduler
        # An interrupted start goes on in its thread, beside the stop.
        if stopping.is_set():
            return ""
        nannies = [
            _QuickNanny(
                scheduler.address,
                name=str(index),
                host="127.0.0.1",
                nthreads=WORKER_THREADS,
                memory_limit=0,
                resources={"GPU": 1} if "CUDA_VISIBLE_DEVICES" in environment else {},
                env=environment,
                dashboard=False,
                local_directory=scratch,
                silence_logs=SILENT,
            )
            for index, environment in enumerate(environments)
        ]
        servers.extend(nannies)
        await asyncio.gather(*nannies)
        return str(scheduler.address)

    async def stop() -> None:
        stopping.set()
        # The workers first: without a scheduler they would try to reconnect.
        for some in (servers[1:], servers[:1]):
            await asyncio.gather(*(server.close() for server in some), return_exceptions=True)

    with tempfile.TemporaryDirectory(prefix="declip-dask-", ignore_cleanup_errors=True) as scratch:
        try:
            try:
                address = sync(loop, start, scratch)
            except (RuntimeError, OSError) as error:
                raise DeclipError(f"the Dask workers did not start: {error}") from error
            yield address
        finally:
            with suppress(TimeoutError):
                sync(loop, stop, callback_timeout=CLUSTER_CLOSE_SECONDS)


class _QuickNanny(Nanny):
    """Nanny that ends its worker process without waiting for the running task.

    The next run repeats whatever a task has not committed, so waiting would save nothing.
    """

    async def instantiate(self) -> Status:
        if self.status in (Status.closing, Status.closed):
            raise RuntimeError("the nanny was closed before its worker started")
        return await super().instantiate()

    async def close(self, timeout: float | None = None, reason: str = "nanny-close") -> Any:
        worker = self.process
        if worker is not None and worker.process is not None and worker.status == Status.starting:
            # Dask would wait until the process is up before it ends it.
            worker.process.kill()
        return await super().close(timeout=WORKER_CLOSE_SECONDS, reason=reason)


def _worker_environments(count: int) -> list[dict[str, str]]:
    """Return the environment variables of each local worker: its GPU where there are any."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0:
        # As many threads as a single process uses: other numbers change the last bits of a sum,
        # and so the store. With more threads than cores, none of them may busy-wait.
        return [{"OMP_WAIT_POLICY": "PASSIVE"}] * count
    if count > gpus:
        raise InputError(
            f'`dask="local:{count}"` asks for {count} workers, but there are {gpus} GPUs, one for '
            f'each; give `dask="local:{gpus}"`, or set CUDA_VISIBLE_DEVICES= to compute on the CPU'
        )
    # A job that got some of a machine's GPUs has them listed here, not always from 0.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(index) for index in range(gpus)]
    return [{"CUDA_VISIBLE_DEVICES": name.strip()} for name in names[:count]]


def _address(text: str) -> str:
    """Return `text` if it is an address, else raise `InputError`."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
    except ValueError:
        is_address = False
    if not is_address or parts.path or parts.query or parts.fragment or parts.username:
        raise InputError(
            f"`scheduler` {text!r} is not an address; expected tcp://HOST:PORT, as "
            "`dask scheduler` prints it"
        )
    return text


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} minutes"
