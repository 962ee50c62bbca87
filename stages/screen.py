"""Output on the screen: progress and remarks on stderr, results on stdout; all of it in a log."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
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

from stages import log_file
from stages.log_file import log
from stages.texts import printable, spelled

# Names of images and runs are shown to the letter: no colours, markup or emoji made of them.
console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def remark(text: str) -> None:
    """Write one line to stderr, its parameters spelled as flags."""
    line = printable(spelled(text))
    console.print(line)
    log(line)


def log_table(table: RenderableType) -> None:
    """Write a table to the log file, where there is one."""
    plain = Console(file=io.StringIO(), width=LOG_WIDTH, no_color=True, highlight=False)
    with plain.capture() as captured:
        plain.print(table)
    log(captured.get().rstrip())


def result(text: str) -> None:
    """Write one result to stdout; characters that its encoding lacks are escaped, with a remark."""
    log(text)
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


LOG_WIDTH = 120
"""Columns of a table in a log file."""

# Of the description of a bar, where the console is narrow; what stands beside it on a wide one.
LONGEST_NAME, BESIDE_IT = 40, 60


def rate_text(done: int, seconds: float, unit: str) -> str:
    """Return how many are done a second, or an hour where a second is too short."""
    rate = done / seconds
    return f"{rate:.1f} {unit}/s" if rate >= 0.1 else f"{3600 * rate:.1f} {unit}/h"


def time_text(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


class _Rate(ProgressColumn):
    """Images (or whatever is counted) per second."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        # Over the whole time: rich's own rate leaves out the time before the first update.
        done = int(task.completed - task.fields["initial"])
        is_told = done and task.elapsed and task.total != 1
        return Text(rate_text(done, task.elapsed or 1.0, self._unit) if is_told else "")


class _TimeLeft(ProgressColumn):
    """Time left at the rate so far; at the end, and before the first is done, the time taken."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["initial"]
        if task.elapsed is None or task.total is None:
            return Text("-:--:--")
        if not done:
            return Text(f"{time_text(task.elapsed)} so far")
        left = (task.total - task.completed) * task.elapsed / done
        return Text(time_text(task.elapsed if task.finished else left))


class ProgressLines:
    """Lines of progress, one each `LINE_SECONDS`: in the log, and on a stderr that is a file."""

    def __init__(self, what: str, unit: str) -> None:
        """Say what is done, and what is counted."""
        self._what, self._unit = what, unit
        self._started = time.monotonic()
        self._initial: int | None = None
        self._done = self._total = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_regularly, daemon=True)

    def tell(self, done: int, total: int) -> None:
        """Keep the state for the next line; the first call starts the clock."""
        self._done, self._total = done, total
        if self._initial is None:
            self._initial = done
            self._started = time.monotonic()
            self._thread.start()

    def close(self) -> None:
        """Write no more lines, and the last state to the log."""
        self._ended.set()
        if self._initial is not None:
            log(self.text())

    def text(self) -> str:
        """Return what is done, and the pace."""
        done, pace = f"{self._what}: {self._done} of {self._total} {self._unit}", self.pace()
        return f"{done}, {pace}" if pace else done

    def pace(self) -> str:
        """Return the rate and the time left; at the end, and before one is done, the time taken.

        "" where all was done from the start.
        """
        seconds = time.monotonic() - self._started
        new = self._done - (self._initial or 0)
        is_over = self._done >= self._total
        if new <= 0 or seconds <= 0:
            return "" if is_over else f"{time_text(seconds)} so far"
        left = (self._total - self._done) * seconds / new
        ending = f"{time_text(seconds)} taken" if is_over else f"{time_text(left)} left"
        rate = rate_text(new, seconds, self._unit)
        return ending if self._total == 1 else f"{rate}, {ending}"

    def _write_regularly(self) -> None:
        while not self._ended.wait(log_file.LINE_SECONDS):
            log(self.text())
            if not console.is_terminal:
                console.print(printable(self.text()))


def _shortened(name: str) -> str:
    most = max(LONGEST_NAME, console.width - BESIDE_IT)
    if len(name) <= most:
        return name
    kept = most - len("...")
    return f"{name[: kept - kept // 2]}...{name[-(kept // 2) :]}"


@contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar with rate and time left.

    On a terminal the bar is drawn live. Elsewhere, and in the file of --log-file, a line each 30
    seconds says the same, and one the last state. Nothing is drawn before the first call. The bar
    takes one line: the middle of a name that is too long is left out.

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
    lines = ProgressLines(what, unit)

    def tell(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            # What an earlier run did counts from the start, but not for the rate.
            task = bar.add_task(_shortened(what), total=total, completed=done, initial=done)
            bar.start()
        bar.update(task, completed=done, total=total)
        lines.tell(done, total)

    try:
        yield tell
    finally:
        lines.close()
        if task is not None:
            bar.stop()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that a step which has no parts to count is under way, and for how long."""
    with progress(what, "steps") as tell:
        tell(0, 1)
        yield
        tell(1, 1)
