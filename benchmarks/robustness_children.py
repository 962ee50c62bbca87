"""Cases in forked children of a process that has imported everything, watched from outside.

A child plays one case: it changes some input, runs the program on it as the command line does,
and compares what came of it. The parent ends a child that takes too long or too much memory.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

OUTCOMES = (
    "right",
    "clear refusal",
    "unclear refusal",
    "internal error",
    "wrong result",
    "hang",
    "over 2 GB",
)
"""Outcomes of a case, the worst last but for the two that the parent sees."""

GOOD = OUTCOMES[:2]
SECONDS = 30
BYTES = 2 * 10**9
_LOOK_EVERY = 0.004
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Ended:
    """End of the program: exit code, what it printed, and whether that is an outcome."""

    code: int
    out: str
    err: str

    @property
    def is_done(self) -> bool:
        """Return whether the program says that it did what it was asked to."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """Return the last line of stdout, the result of most commands."""
        return (self.out.strip().splitlines() or [""])[-1]


@dataclass
class Case:
    """A case that is being played, in the child.

    Attributes:
        folder: Folder of its own, that is removed afterwards.
        random: Source of all that is drawn: the same for the same seed, kind and number.
        change: What was changed, in words.
    """

    folder: Path
    random: Random
    change: str = ""
    commands: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    outcome: str = "right"
    stderr: str = ""
    _traceback: str = ""

    def note(self, change: str) -> None:
        """Say what was changed; it is known even if the child does not come back."""
        self.change = f"{self.change}; {change}" if self.change else change
        self._save()

    def run(self, *arguments: object, reports: bool = False) -> Ended:
        """Run the program in this process.

        `reports` is for commands that answer with exit code 1 and lines on stdout, as `verify`.
        """
        command = [str(argument) for argument in arguments]
        self.commands.append(" ".join(command))
        self._save()
        places = [(self.folder / name).stat().st_size for name in (".out", ".err")]
        code, failure = self._main(command)
        out, err = (
            (self.folder / name).read_bytes()[place:].decode(errors="replace")
            for name, place in zip((".out", ".err"), places, strict=True)
        )
        ended = Ended(code, out, err)
        self.stderr = err[-1000:]
        self._judge(ended, failure, reports)
        return ended

    def expect(self, holds: bool, otherwise: str) -> None:
        """Count the case as a wrong result unless `holds`."""
        if not holds:
            self._worse("wrong result", otherwise)

    def unclear(self, why: str) -> None:
        """Count the case as an unclear refusal."""
        self._worse("unclear refusal", why)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function of the library: its own errors are refusals; returns None then."""
        from declip_pipeline.errors import DeclipError

        try:
            return function()
        except DeclipError as error:
            self._worse("clear refusal", str(error))
        except BaseException:
            self._worse("internal error", traceback.format_exc())
        return None

    def _main(self, command: list[str]) -> tuple[int, str]:
        from stages import app

        shown = app._one_line
        self._traceback = ""

        def noted(error: Exception) -> str:
            line = shown(error)
            if line.startswith("internal error"):
                self._traceback = "".join(traceback.format_exception(error))
            return line

        app._one_line = noted
        sys.argv = ["declip-pipe", *command]
        try:
            app.main()
        except SystemExit as ending:
            code = ending.code
            return (code if isinstance(code, int) else int(code is not None)), self._traceback
        except BaseException:
            return 70, traceback.format_exc()
        finally:
            app._one_line = shown
            sys.stdout.flush()
            sys.stderr.flush()
        return 0, self._traceback

    def _judge(self, ended: Ended, failure: str, reports: bool) -> None:
        lines = [line for line in ended.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("declip-pipe: ")]
        if failure or "Traceback (most" in ended.err or ended.code not in (0, 1, 2):
            self._worse("internal error", failure or f"exit code {ended.code}\n{ended.err[-2000:]}")
        elif ended.code == 0:
            return
        elif len(errors) == 1 and lines[-1] == errors[0]:
            self._worse("clear refusal", errors[0])
        elif reports and not errors and ended.out.strip():
            self._worse("clear refusal", ended.last_line)
        else:
            self._worse("unclear refusal", f"exit code {ended.code}\n{ended.err[-2000:]}")

    def _worse(self, outcome: str, detail: str) -> None:
        if OUTCOMES.index(outcome) > OUTCOMES.index(self.outcome):
            self.outcome = outcome
        self.details.append(f"{outcome}: {detail}")

    def _save(self) -> None:
        kept = ("change", "commands", "details", "outcome", "stderr")
        text = json.dumps({name: getattr(self, name) for name in kept})
        (self.folder / ".case").write_text(text)


@dataclass
class _Child:
    job: Any
    folder: Path
    started: float
    fate: str = ""


def play_all(
    jobs: Iterator[Any],
    play: Callable[[Any, Case], None],
    case_of: Callable[[Any, Path], Case],
    folder: Path,
    processes: int,
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Play each job in a child, `processes` at a time; yield the job and how it ended.

    What is yielded holds `outcome`, `change`, `commands`, `details`, `seconds`,
    `processor_seconds`, and `megabytes`, the most memory over what the child began with.
    """
    baseline = _resident(os.getpid())
    running: dict[int, _Child] = {}
    number = 0
    waiting = True
    while waiting or running:
        while waiting and len(running) < processes:
            job = next(jobs, None)
            if job is None:
                waiting = False
                break
            number += 1
            own = folder / f"case{number}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            pid = os.fork()
            if pid == 0:
                _be_a_child(play, job, case_of, own)
            running[pid] = _Child(job, own, time.monotonic())
        for pid, child in list(running.items()):
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if not found:
                _watch(pid, child, baseline)
                continue
            del running[pid]
            ending = _ending(child, status, usage.ru_maxrss * 1024 - baseline)
            ending["processor_seconds"] = round(usage.ru_utime + usage.ru_stime, 3)
            yield child.job, ending
            shutil.rmtree(child.folder, ignore_errors=True)
        time.sleep(_LOOK_EVERY)


def _be_a_child(
    play: Callable[[Any, Case], None],
    job: Any,
    case_of: Callable[[Any, Path], Case],
    folder: Path,
) -> None:
    import torch

    code = 1
    try:
        # Torch makes its pool again after a fork, which two threads at once do not survive.
        torch.set_num_threads(1)
        for place, name in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND), place)
        # What a child leaves is removed with its folder: nobody has to wait for the disk.
        os.fsync = lambda descriptor: None
        os.chdir(folder)
        case = case_of(job, folder)
        try:
            play(job, case)
        except BaseException:
            case._worse("internal error", f"of the benchmark itself: {traceback.format_exc()}")
        case._save()
        (folder / ".done").touch()
        code = 0
    finally:
        os._exit(code)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _watch(pid: int, child: _Child, baseline: int) -> None:
    if time.monotonic() - child.started > SECONDS:
        child.fate = "hang"
    elif _resident(pid) - baseline > BYTES:
        child.fate = "over 2 GB"
    if child.fate:
        os.kill(pid, signal.SIGKILL)


def _ending(child: _Child, status: int, extra: int) -> dict[str, Any]:
    try:
        found = json.loads((child.folder / ".case").read_text())
    except (OSError, ValueError):
        found = {"change": "", "commands": [], "details": [], "outcome": "internal error"}
    if child.fate or extra > BYTES:
        found["outcome"] = child.fate or "over 2 GB"
    elif not (child.folder / ".done").exists():
        code = os.waitstatus_to_exitcode(status)
        error = (child.folder / ".err").read_text(errors="replace")[-1500:]
        found["outcome"] = "internal error"
        found["details"].append(f"internal error: the process ended with {code}\n{error}")
    found["seconds"] = round(time.monotonic() - child.started, 3)
    found["megabytes"] = max(0, extra // 10**6)
    return found
