"""Output on the screen: progress and remarks on stderr, results on stdout."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from stages.texts import printable, spelled

# Names of images and runs are shown to the letter: no colours, markup or emoji made of them.
console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def remark(text: str) -> None:
    """Write one line to stderr, its parameters spelled as flags."""
    console.print(printable(spelled(text)))


def result(text: str) -> None:
    """Write one result to stdout; characters that its encoding lacks are escaped, with a remark."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError as error:
        print(text.encode(error.encoding, "backslashreplace").decode(error.encoding), flush=True)
        remark(
            f"the line above is escaped: stdout is {error.encoding}, which lacks "
            f"{text[error.start]!a}; set PYTHONIOENCODING=utf-8"
        )


def json_result(value: Any) -> None:
    """Write one result to stdout as JSON, the parameters in its texts spelled as flags."""
    result(json.dumps(_with_flags(value), indent=2))


def _with_flags(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_flags(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_flags(one) for one in value]
    return spelled(value) if isinstance(value, str) else value


# Of the description of a bar, where the console is narrow; what stands beside it on a wide one.
LONGEST_NAME, BESIDE_IT = 40, 60


class _Rate(ProgressColumn):
    """Images (or whatever is counted) per second."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        # Over the whole time: rich's own rate leaves out the time before the first update.
        done = task.completed - task.fields["initial"]
        return Text(
            "" if not done or not task.elapsed else f"{done / task.elapsed:.1f} {self._unit}/s"
        )


class _TimeLeft(ProgressColumn):
    """Time left at the rate so far; at the end, the time taken."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["initial"]
        if task.elapsed is None or not done or task.total is None:
            return Text("-:--:--")
        left = (task.total - task.completed) * task.elapsed / done
        return Text(str(timedelta(seconds=round(task.elapsed if task.finished else left))))


def _shortened(name: str) -> str:
    most = max(LONGEST_NAME, console.width - BESIDE_IT)
    if len(name) <= most:
        return name
    kept = most - len("...")
    return f"{name[: kept - kept // 2]}...{name[-(kept // 2) :]}"


@contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar with rate and time left.

    On a terminal the bar is drawn live; elsewhere (a log file) only its last state is written.
    Nothing is drawn before the first call. The bar takes one line: the middle of a name that is
    too long is left out.

    Yields:
        A function `tell(done, total)` that updates the bar.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _Rate(unit),
        _TimeLeft(Column(no_wrap=True)),
        console=console,
    )
    task = None

    def tell(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            # What an earlier run did counts from the start, but not for the rate.
            task = bar.add_task(_shortened(what), total=total, completed=done, initial=done)
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if task is not None:
            bar.stop()
