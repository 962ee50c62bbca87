"""Ctrl-C and SIGTERM: one line, an exit code of its own, and the same command goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.made_dataset import write_dataset

from declip_pipeline.store.reader import Store

PROGRAM = [sys.executable, "-c", "from stages.app import main; main()"]


# A command that is interrupted within a destructor, where Python can raise nothing.
DESTRUCTOR = """
import os, signal, time
from stages import app

class Trap:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def command(**options):
    Trap()
    time.sleep(60)

app.app = command
app.main()
"""


# A library that does not expect an interruption, and fails while it cleans up.
CLEANUP = """
import os, signal
from stages import app

def command(**options):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            pass
    finally:
        [].pop()

app.app = command
app.main()
"""


# A thread that never ends is waited for, as one whose lock the interruption left taken.
STUCK = """
import os, signal, threading
from stages import app, signals

def command(**options):
    lock = threading.Lock()
    lock.acquire()
    stuck = threading.Thread(target=lock.acquire)
    stuck.start()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            pass
    finally:
        stuck.join()

signals.PATIENCE_SECONDS = 1
app.app = command
app.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [DESTRUCTOR, CLEANUP, STUCK], ids=["destructor", "clean-up", "stuck"]
)
def test_an_interruption_is_not_lost_where_nothing_can_be_raised(program):
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert outcome.returncode == 143, outcome.stderr
    assert outcome.stderr.splitlines() == [
        "declip-pipe: interrupted; run the same command again to finish its work"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_extraction_goes_on(tiny_arch, tmp_path, number, code):
    dataset = write_dataset(tmp_path / "many", {"train": 150, "valid": 1, "test": 1})
    command = [*PROGRAM, "extract", str(dataset), *map(str, tiny_arch)]
    command += ["--cache", str(tmp_path / "cache"), "--batch-size", "8"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # As soon as one shard is done: in the middle of the second of three.
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("*/*/*/ledger/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("declip-pipe: ")]
    assert lines == ["declip-pipe: interrupted; run the same command again to finish its work"]
    assert "Traceback" not in err
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(Store(Path(again.stdout.strip())).samples) == 152
