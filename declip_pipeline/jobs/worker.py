"""The side of a worker process: one task at a time, and what is kept between tasks."""

import socket
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock, RLock
from typing import Any, TypeVar

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """Result of one task.

    Args:
        host: Name of the worker's machine.
        notices: Lines for the user that were passed to `notice` meanwhile.
        result: Return value of the task's function.
    """

    host: str
    notices: list[str]
    result: Any


class CancelledTaskError(Exception):
    """The task was cancelled. Dask cannot stop a running task, so the task stops itself."""


# A worker has as many threads as its cluster gave it; a task needs much of the memory or the GPU.
_slots: dict[int, BoundedSemaphore] = {}
_kept: dict[str, tuple[Hashable, Any]] = {}
_keeping = RLock()
_notices: list[str] = []
_taking = Lock()


def perform(
    version: str, at_once: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Answer:
    """Run one task in this worker.

    Args:
        version: Version of the package that sent the task.
        at_once: Number of tasks that this process may run at the same time.
        function: Called with `arguments`.
        arguments: Arguments of `function`.

    Raises:
        CancelledTaskError: The task was cancelled while it waited for its turn.
        DeclipError: Raised by `function`; the message names this machine.
    """
    host = socket.gethostname()
    with _slots.setdefault(at_once, BoundedSemaphore(at_once)):
        require_wanted()
        try:
            require_version(version)
            result = function(*arguments)
        except DeclipError as error:
            error.args = (f"the worker on {host}: {error}",)
            raise
    with _taking:
        notices = list(_notices)
        del _notices[: len(notices)]
    return Answer(host, notices, result)


def answer(version: str, question: Callable[..., T], *arguments: Any) -> T:
    """Return `question(*arguments)` after checking the version of this worker."""
    require_version(version)
    return question(*arguments)


def require_version(expected: str) -> None:
    """Raise `InputError` unless this worker has version `expected` of the package."""
    if expected != __version__:
        raise InputError(
            f"the worker on {socket.gethostname()} has declip-pipe {__version__}, this is "
            f"{expected}; install the same version there"
        )


def require_wanted() -> None:
    """Raise `CancelledTaskError` when the task of this thread was cancelled."""
    from distributed import get_worker

    worker: Any = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state != "executing":
        raise CancelledTaskError("the task was cancelled")


def notice(line: str) -> None:
    """Report a line to the user together with the result of the current task."""
    _notices.append(line)


def keep(kind: str, key: Hashable, make: Callable[[], T]) -> T:
    """Return the resource of `kind` that was made for `key`, making it if necessary.

    One resource of a kind is kept. The threads of a worker share it.

    Args:
        kind: Name of the kind, such as "backbone".
        key: Everything that the resource depends on.
        make: Makes the resource.
    """
    with _keeping:
        known, resource = _kept.get(kind, (None, None))
        if kind not in _kept or known != key:
            del resource
            _kept.pop(kind, None)  # frees its memory before more is allocated
            resource = make()
            _kept[kind] = key, resource
        kept: T = resource
        return kept


def forget() -> None:
    """Drop every kept resource."""
    _kept.clear()
