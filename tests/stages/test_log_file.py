"""`--log-file`: what a command says, with a line of progress at times, and how it ended."""

import re
import signal
import subprocess
import sys
import time

import pytest

from stages import log_file
from stages.screen import console, progress, working

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def lines_of(path):
    text = path.read_text()
    assert "\x1b" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert all(LINE.match(line) for line in lines)
    return [LINE.sub("", line) for line in lines]


def test_a_log_has_the_command_its_progress_and_what_it_wrote(program, tiny_store, tmp_path):
    log = tmp_path / "logs" / "export.log"
    file = tmp_path / "out.h5"
    outcome = program("cache", "export", tiny_store.location, file, "--log-file", log)
    assert outcome.code == 0
    first, bar, wrote, last = lines_of(log)
    assert first.startswith(f"$ declip-pipe cache export {tiny_store.location} {file} --log-file")
    assert re.fullmatch(
        rf"exporting to {file}: 15 of 15 images(, [\d.]+ images/s, 0:00:\d\d taken)?", bar
    )
    assert wrote == str(file)
    assert re.fullmatch(r"done after 0:00:\d\d", last)


def test_a_failure_is_in_the_log_and_the_next_run_adds_to_it(program, tiny_store, tmp_path):
    log = tmp_path / "info.log"
    assert program("cache", "info", tmp_path / "nowhere", "--log-file", log).code == 1
    assert program("cache", "info", tiny_store.location, "--log-file", log).code == 0
    lines = lines_of(log)
    assert lines[1].startswith(f"declip-pipe: {tmp_path / 'nowhere'}")
    assert lines[2].startswith("failed after ") and lines[3].startswith("$ declip-pipe cache info")
    assert lines[-1].startswith("done after ")


def test_a_log_that_cannot_be_written_is_refused_before_any_work(refused, tiny_store, tmp_path):
    file = tmp_path / "out.h5"
    line = refused("cache", "export", tiny_store.location, file, "--log-file", tmp_path)
    assert line == f"--log-file {tmp_path}: is a directory; name another file"
    assert not file.exists()


def test_progress_is_a_line_at_times_where_stderr_is_no_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(log_file, "LINE_SECONDS", 0.05)
    log_file.open_log(tmp_path / "a.log")
    assert not console.is_terminal
    with progress("counting", "steps") as tell:
        tell(2, 10)
        time.sleep(0.02)
        tell(4, 10)
        time.sleep(0.3)
    log_file.close_log("done")
    line = r"counting: 4 of 10 steps, [\d.]+ steps/s, 0:00:\d\d left"
    said = [one for one in lines_of(tmp_path / "a.log") if re.fullmatch(line, one)]
    assert len(said) >= 3
    shown = [one for one in capsys.readouterr().err.splitlines() if re.fullmatch(line, one)]
    assert len(shown) >= 2


def test_a_slow_rate_is_told_by_the_hour():
    from stages.screen import rate_text

    assert rate_text(3, 120.0, "runs") == "90.0 runs/h"
    assert rate_text(30, 2.0, "images") == "15.0 images/s"


def test_one_step_has_no_rate(capsys, tmp_path):
    log_file.open_log(tmp_path / "a.log")
    with working("opening"):
        time.sleep(0.01)
    log_file.close_log("done")
    assert re.fullmatch(r"opening: 1 of 1 steps, 0:00:\d\d taken", lines_of(tmp_path / "a.log")[1])
    assert "/s" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_command_says_so_in_its_log(tmp_path):
    log = tmp_path / "a.log"
    code = (
        "import time, sys\n"
        "from stages import app, log_file\n"
        "def command(**options):\n"
        "    log_file.open_log(__import__('pathlib').Path(sys.argv[1]))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "app.app = command\n"
        "app.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, log], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
    assert re.fullmatch(r"interrupted after 0:00:\d\d", lines_of(log)[-1])
