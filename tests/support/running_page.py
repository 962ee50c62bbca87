"""The page of `declip-pipe app` in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class RunningPage:
    """A page that is served.

    Attributes:
        process: The program.
        url: The page's address.
        temporary: Folder that stands for /tmp.
    """

    process: "subprocess.Popen[str]"
    url: str
    temporary: Path

    @property
    def kept(self) -> list[Path]:
        """Files that the program keeps."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def close(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what was said."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextmanager
def running_page(temporary: Path, *arguments: object) -> Iterator[RunningPage]:
    """Start the page on a free port, and end it with the block."""
    command = [sys.executable, "-c", "from stages.app import main; main()", "app", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise AssertionError(process.communicate(timeout=60)[1])
        yield RunningPage(process, url, temporary)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
