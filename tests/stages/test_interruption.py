"""Ctrl-C and SIGTERM: one line, an exit code of its own, and the same command goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_dataset import write_dataset

from declip_pipeline.store.reader import Store

PROGRAM = [sys.executable, "-c", "from stages.app import main; main()"]


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
