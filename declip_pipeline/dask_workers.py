"""The workers of a Dask client: what they are, what they answer, and what it means to lose them."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from declip_pipeline import __version__
from declip_pipeline.compute import choose_device
from declip_pipeline.errors import DeclipError, InputError

if TYPE_CHECKING:
    from distributed import Client, Future

POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0
LONELY_LOOKS = 5
GPU = "GPU"


class DaskWorkers:
    """The workers of a client, from one moment to the next."""

    def __init__(self, client: "Client") -> None:
        self.client = client

    def present(self) -> list[str]:
        """Addresses of the workers that are there: where any declares a GPU, those that do."""
        resources = self._resources()
        with_gpu = [address for address, names in resources.items() if GPU in names]
        return with_gpu or list(resources)

    def has_gpus(self) -> bool:
        """Whether any worker declares a GPU."""
        return any(GPU in names for names in self._resources().values())

    def ask(
        self, question: Callable[..., Any], *arguments: Any, workers: list[str] | None = None
    ) -> dict[str, Any]:
        """Every worker's answer (or that of `workers`), by its address.

        Raises `InputError` for one that has none, what a worker raised of this package's own, and
        `DeclipError` when the scheduler is lost.
        """
        with scheduler_needed():
            answers: dict[str, Any] = self.client.run(
                question, *arguments, workers=workers, on_error="return"
            )
        for worker, answer in sorted(answers.items()):
            if isinstance(answer, DeclipError):
                raise answer
            if isinstance(answer, BaseException):
                # Dask makes plain exceptions, with all in the text, of what it cannot pass on.
                kind = "" if type(answer) is Exception else f"{type(answer).__name__}: "
                raise InputError(
                    f"the worker {worker} cannot run this: {kind}{answer}; "
                    f"install declip-pipe {__version__} there"
                )
        return answers

    def device_kind(self, device: str) -> str:
        """Where the workers compute, "cpu" or "cuda", when they are told `device`.

        Raises `InputError` when they differ, or one has another version of this package.
        """
        kinds: dict[str, str] = self.ask(_device_kind, __version__, device)
        if len(set(kinds.values())) != 1:
            found = ", ".join(f"{worker} {kind}" for worker, kind in sorted(kinds.items()))
            raise InputError(
                f"the workers compute on different devices: {found}; what they compute would "
                "differ, so name one with --device"
            )
        return next(iter(kinds.values()))

    def as_they_end(
        self, tasks: Sequence["Future[Any]"], notice: Callable[[str], None]
    ) -> Iterator["Future[Any]"]:
        """Tasks in the order in which they end; says so when no worker is left to end them."""
        from distributed import as_completed

        untyped: Any = as_completed
        waiting = untyped(tasks, loop=self.client.loop)
        left, lookout = len(tasks), Lookout(self, notice)
        while left:
            ended = waiting.next_batch(block=False)
            left -= len(ended)
            yield from ended
            lookout.look()
            if not ended:
                time.sleep(POLL_SECONDS)

    def _resources(self) -> dict[str, dict[str, float]]:
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: worker["resources"] for address, worker in workers.items()}


class Lookout:
    """Looks about once a second which workers are there, and says so when none is for long."""

    def __init__(self, workers: DaskWorkers, notice: Callable[[str], None]) -> None:
        self._workers = workers
        self._notice = notice
        self._present: list[str] = []
        self._lonely = 0
        self._looked = float("-inf")

    def look(self) -> list[str]:
        """The workers as they were at most a second ago."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            self._present = self._workers.present()
            self._lonely = 0 if self._present else self._lonely + 1
            # One that starts anew is away for a moment.
            if self._lonely == LONELY_LOOKS:
                self._notice("no worker is left; waiting for one to come")
        return self._present


@contextmanager
def scheduler_needed() -> Iterator[None]:
    """Say in a line that the scheduler is gone. Raises `DeclipError`."""
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise DeclipError(
            "the Dask scheduler is gone; start it and run the same command again, it goes on "
            "where it stopped"
        ) from error


def require_version(expected: str) -> None:
    """In a worker: raise `InputError` unless it has this version of the package."""
    if expected != __version__:
        raise InputError(
            f"the worker on {socket.gethostname()} has declip-pipe {__version__}, this is "
            f"{expected}; install the same version there"
        )


def _device_kind(version: str, device: str) -> str:
    require_version(version)
    return choose_device(device).type
