"""Ctrl-C and SIGTERM: a command that is interrupted cleans up, says so once, and ends in time."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = "declip-pipe: interrupted; run the same command again to finish its work"
# How long an interrupted program may take to finish what is on its way to the disk: it is to be
# gone within 5 seconds, also on a busy machine.
PATIENCE_SECONDS = 3
SHOW_CURSOR = "\x1b[?25h"


class Interruption(BaseException):
    """Ctrl-C or SIGTERM, on its way through every clean-up; nothing below catches it."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an `Interruption` in the main thread.

    The program ends within `PATIENCE_SECONDS` of the signal even where its clean-up does not.
    """
    reported = sys.unraisablehook
    signals = _watch_signals()
    try:
        sys.unraisablehook = _raise_again
        _answer_signals(_interrupt)
        yield
    finally:
        # A second signal, or one that comes while the program ends, ends it at once.
        _answer_signals(signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(signals)
        sys.unraisablehook = reported


@contextmanager
def signals_answered_by(answer: Callable[[], None]) -> Iterator[None]:
    """Let `answer` handle SIGINT and SIGTERM within `interruptible`, with no time limit.

    This is for a command that such a signal ends in the ordinary way.
    """
    watched = signal.set_wakeup_fd(-1)
    try:
        _answer_signals(lambda number, frame: answer())
        yield
    finally:
        _answer_signals(_interrupt)
        signal.set_wakeup_fd(watched, warn_on_full_buffer=False)


def interruption_behind(error: BaseException | None) -> Interruption | None:
    """Return the interruption during whose clean-up an error was raised, if there is one."""
    while error is not None and not isinstance(error, Interruption):
        error = error.__context__
    return error


def end_interrupted(interruption: Interruption) -> NoReturn:
    """Say that the program was interrupted, and exit with 128 plus the signal's number."""
    _answer_signals(signal.SIG_DFL)
    # Objects whose work was cut short may complain when they are destroyed.
    sys.unraisablehook = lambda unraisable: None
    warnings.simplefilter("ignore")
    if _told.acquire(blocking=False):
        print(INTERRUPTED, file=sys.stderr)
    if "stages.log_file" in sys.modules:
        from stages.log_file import close_log

        close_log("interrupted")
    sys.exit(128 + int(interruption.args[0]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)


_told = threading.Lock()
"""Taken by the thread that says that the program was interrupted, so that it is said once."""


def _watch_signals() -> int:
    """Start a thread that ends an interrupted program in time, wherever the signal finds it.

    The main thread handles signals between two of its own steps, and one step (a forward pass, a
    disk that does not answer) may take minutes. Also, an exception at any moment may leave a
    thread's lock taken, and then threads that are waited for never end. What is on the disk is
    good at any moment, so nothing is lost. Returns the descriptor that signals are written to.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading,), daemon=True).start()
    return writing


def _end_in_time(reading: int) -> None:
    """Wait for an interruption, give the program its time to end, then end it."""
    with os.fdopen(reading, "rb", buffering=0) as signals:
        while number := signals.read(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                time.sleep(PATIENCE_SECONDS)
                # Not sys.stderr: a progress bar on a terminal has it, and has hidden the cursor.
                screen = sys.__stderr__
                if screen is not None and _told.acquire(blocking=False):
                    start = f"{SHOW_CURSOR}\n" if screen.isatty() else ""
                    print(f"{start}{INTERRUPTED}", file=screen, flush=True)
                os._exit(128 + number[0])


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise an interruption again that came where Python can only report it (a destructor)."""
    interruption = unraisable.exc_value
    if not isinstance(interruption, Interruption):
        sys.__unraisablehook__(unraisable)
        return
    number = int(interruption.args[0])
    signal.signal(signal.SIGALRM, lambda _, frame: _interrupt(number, frame))
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def _answer_signals(answer: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, answer)
