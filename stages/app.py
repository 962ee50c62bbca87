"""The `declip-pipe` program: its commands, and errors turned into exit codes."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError, InputError
from stages.ablate import ablate
from stages.cache.app import app as cache_app
from stages.compare import compare
from stages.data.app import app as data_app
from stages.demo import demo
from stages.evaluate import evaluate
from stages.export import export
from stages.extract import extract
from stages.import_checkpoint import import_checkpoint
from stages.predict import predict
from stages.reproduce import reproduce
from stages.train import train

TRACEBACK_VARIABLE = "DECLIP_PIPE_TRACEBACK"
INTERRUPTED = "declip-pipe: interrupted; run the same command again to finish its work"
# How long an interrupted program may take to finish what is on its way to the disk: it is to be
# gone within 5 seconds, also on a busy machine.
PATIENCE_SECONDS = 3
SHOW_CURSOR = "\x1b[?25h"

app = typer.Typer(
    name="declip-pipe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"declip-pipe {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Find the manipulated pixels of pictures with frozen foundation features.

    Stage one (extract) runs the frozen backbone once and stores every layer's features; stage two
    (train, evaluate) works from the store alone. Results go to stdout, progress to stderr. Exit
    codes: 0 done, 1 failed or done in part, 2 wrong input, 130 interrupted (143 by SIGTERM).
    """


for command in (
    *(extract, train, ablate, evaluate, compare, predict),
    *(reproduce, import_checkpoint, export, demo),
):
    app.command()(command)
app.add_typer(cache_app)
app.add_typer(data_app)


class _Interruption(BaseException):
    """Ctrl-C or SIGTERM, on its way through every clean-up; nothing below catches it."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interruption(number)


_told = threading.Lock()
"""Taken by whoever tells that the program was interrupted, so that it is told once."""


def _watch_signals() -> int:
    """Start a thread that ends an interrupted program in time, wherever the signal finds it.

    The main thread answers signals between two of its own steps, and one step (a forward pass, a
    disk that does not answer) may take minutes. Also, an exception at any moment may leave a
    thread's lock taken, and then threads that are waited for never end. What is on the disk is
    good at any moment, so nobody need wait. Returns the descriptor that signals are written to.
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


def _insist(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise an interruption anew that came where Python can but report it, as in a destructor."""
    interruption = unraisable.exc_value
    if not isinstance(interruption, _Interruption):
        sys.__unraisablehook__(unraisable)
        return
    number = int(interruption.args[0])
    signal.signal(signal.SIGALRM, lambda _, frame: _interrupt(number, frame))
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def _answer_signals(answer: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, answer)


def main() -> None:
    """Run the program; an error is one line on stderr and a non-zero exit code."""
    reported = sys.unraisablehook
    signals = _watch_signals()
    try:
        try:
            sys.unraisablehook = _insist
            _answer_signals(_interrupt)
            # What a command made, which is for others of them; or the code of an exit asked for.
            outcome = app(prog_name="declip-pipe", standalone_mode=False)
        finally:
            # One more, or one that comes while the program ends, ends it at once.
            _answer_signals(signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.close(signals)
            sys.unraisablehook = reported
    except _Interruption as interruption:
        _end_interrupted(interruption)
    except Exception as error:
        behind = _interruption_behind(error)
        if behind is not None:
            _end_interrupted(behind)
        # Typer brings its own Click in newer versions, so the class has no one home to import from.
        if hasattr(error, "format_message"):
            _show_usage_error(error)
            sys.exit(2)
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"declip-pipe: {_one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    if isinstance(outcome, int) and outcome:
        sys.exit(outcome)


def _interruption_behind(error: BaseException | None) -> _Interruption | None:
    """The interruption during whose clean-up an error came: a library need not expect one."""
    while error is not None and not isinstance(error, _Interruption):
        error = error.__context__
    return error


def _end_interrupted(interruption: _Interruption) -> NoReturn:
    _answer_signals(signal.SIG_DFL)
    # What was torn from its work may complain when it is cleared away; nobody wants to know.
    sys.unraisablehook = lambda unraisable: None
    warnings.simplefilter("ignore")
    if _told.acquire(blocking=False):
        print(INTERRUPTED, file=sys.stderr)
    sys.exit(128 + int(interruption.args[0]))


def _show_usage_error(error: Any) -> None:
    """Arguments that do not fit, in one line; a command group without a command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    mark = "" if text.endswith("?") else ";"
    hint = f"{mark} see {context.command_path} --help" if context else ""
    print(f"declip-pipe: {text[:1].lower()}{text[1:]}{hint}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, DeclipError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"internal error, {kind}: {text}; set {TRACEBACK_VARIABLE}=1 for where, and report it"
