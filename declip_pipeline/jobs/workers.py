"""The workers of a Dask client: asked, and checked before they are given tasks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from declip_pipeline import __version__
from declip_pipeline.compute import choose_device
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.jobs import worker as worker_side

if TYPE_CHECKING:
    from distributed import Client

GPU = "GPU"


class Workers:
    """The workers of a Dask client."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self._check: Callable[[list[str] | None], Mapping[str, Any]] | None = None
        self._expected: Any = None
        self._differing = ""
        self._fit: dict[str, bool] = {}

    def connected(self) -> dict[str, bool]:
        """Return the addresses of all workers, each with whether it declares a GPU."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: GPU in worker["resources"] for address, worker in workers.items()}

    def usable(self) -> list[str]:
        """Return the addresses of the workers that get tasks: if any has a GPU, only those."""
        return usable(self.connected())

    def ask(
        self, question: Callable[..., Any], *arguments: Any, workers: list[str] | None = None
    ) -> dict[str, Any]:
        """Return every worker's `question(*arguments)`, by the worker's address.

        Args:
            question: A function of a module that workers can import.
            arguments: Its arguments.
            workers: Addresses of the workers to ask; None asks all.

        Raises:
            InputError: A worker has another version of this package or cannot run the question.
            DeclipError: Raised by the question, or the scheduler is lost.
        """
        with scheduler_required():
            answers: dict[str, Any] = self.client.run(
                worker_side.answer,
                __version__,
                question,
                *arguments,
                workers=workers,
                on_error="return",
            )
        for worker, answer in sorted(answers.items()):
            if isinstance(answer, DeclipError):
                raise answer
            if isinstance(answer, BaseException):
                # Dask replaces an exception that it cannot pickle by a plain one with its text.
                kind = "" if type(answer) is Exception else f"{type(answer).__name__}: "
                raise InputError(
                    f"the worker {worker} cannot run this: {kind}{answer}; "
                    f"install declip-pipe {__version__} there"
                )
        return answers

    def device_kind(self, device: str) -> str:
        """Return the kind of device, "cpu" or "cuda", that every worker chooses for `device`.

        Raises:
            InputError: The workers differ, or a worker has another version of this package.
        """
        kinds: dict[str, str] = self.ask(_device_kind, device)
        if len(set(kinds.values())) != 1:
            found = ", ".join(f"{worker} {kind}" for worker, kind in sorted(kinds.items()))
            raise InputError(
                f"the workers compute on different devices: {found}; what they compute would "
                "differ, so name one with `device`"
            )
        return next(iter(kinds.values()))

    def admit(
        self,
        check: Callable[[list[str] | None], Mapping[str, Any]],
        *,
        differing: str = "its answers differ from the other workers'",
        remedy: str = "",
    ) -> Any:
        """Check every worker, and have `is_fit` check each worker that connects later.

        Args:
            check: Asks the workers at the given addresses (None: all); returns their answers by
                address. An `InputError` says why a worker cannot be used.
            differing: Reason to leave out a later worker whose answer is not that of the others.
            remedy: Message of the error when the answers of the present workers differ.

        Returns:
            The answer of all workers.

        Raises:
            InputError: A worker cannot be used, or the answers differ.
        """
        answers = check(None)
        expected = next(iter(answers.values()))
        if any(answer != expected for answer in answers.values()):
            raise InputError(remedy)
        self._check, self._expected, self._differing = check, expected, differing
        self._fit = dict.fromkeys(answers, True)
        return expected

    def is_fit(self, worker: str, notice: Callable[[str], None]) -> bool:
        """Return whether the worker at an address passes the check of `admit`.

        Args:
            worker: Address of the worker.
            notice: Called once with the reason when it does not.
        """
        if self._check is None:
            return True
        if worker not in self._fit:
            reason = self._differing
            try:
                self._fit[worker] = self._check([worker]).get(worker) == self._expected
            except InputError as error:
                self._fit[worker], reason = False, str(error)
            if not self._fit[worker]:
                notice(f"the worker {worker} is left out: {reason}")
        return self._fit[worker]

    def release(self) -> None:
        """Drop what the workers keep between tasks: workers of a running scheduler live on."""
        self.client.run(worker_side.forget, on_error="ignore")


@contextmanager
def scheduler_required() -> Iterator[None]:
    """Turn the loss of the scheduler into a `DeclipError`."""
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        raise DeclipError(
            "the Dask scheduler is gone; start it and run the same command again, it goes on "
            "where it stopped"
        ) from error


def usable(connected: Mapping[str, bool]) -> list[str]:
    """Return the workers that get tasks, of those that `Workers.connected` returned."""
    has_gpus = any(connected.values())
    return [worker for worker, has_gpu in connected.items() if has_gpu == has_gpus]


def _device_kind(device: str) -> str:
    return choose_device(device).type
