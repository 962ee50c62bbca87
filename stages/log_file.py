"""Log file of a command: what it says, and its progress as lines, without escape codes."""

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

from declip_pipeline.errors import InputError

LINE_SECONDS = 30.0
"""Seconds between two lines of progress."""


class LogFile:
    """File that lines are added to, each with the time of day."""

    def __init__(self, path: Path) -> None:
        """Open a file for more lines, and write the command that begins.

        Raises `InputError` where the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(
                f"--log-file {path}: {(error.strerror or str(error)).lower()}; name another file"
            ) from error
        self._started = time.monotonic()
        self.write(f"$ declip-pipe {' '.join(sys.argv[1:])}")

    def write(self, text: str) -> None:
        """Add a text, a line or several."""
        now = datetime.now().isoformat(" ", "seconds")
        for line in text.splitlines() or [""]:
            print(now, line, file=self._file, flush=True)

    def close(self, outcome: str) -> None:
        """Write how the command ended, and close the file."""
        seconds = timedelta(seconds=round(time.monotonic() - self._started))
        self.write(f"{outcome} after {seconds}")
        self._file.close()


_open: LogFile | None = None


def open_log(path: Path | None) -> None:
    """Begin a log file; None begins none."""
    global _open  # noqa: PLW0603 - a program has one
    _open = None if path is None else LogFile(path)


def log(text: str) -> None:
    """Write a text to the log file, where there is one."""
    if _open is not None:
        _open.write(text)


def close_log(outcome: str) -> None:
    """End the log file, where there is one."""
    global _open  # noqa: PLW0603
    if _open is not None:
        _open.close(outcome)
        _open = None
