"""The SLURM job files: what they hand on to the program, and what they ask SLURM for."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = Path(__file__).parents[2] / "stages"
COMMANDS = ["extract", "train", "evaluate", "predict"]
# Long options of sbatch that a job file here may use, and what a value of theirs looks like.
SBATCH_OPTIONS = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus": r"\d+",
    "mem": r"\d+[KMGT]",
    "time": r"(\d+-)?\d{2}:\d{2}:\d{2}",
    "output": r"slurm-%j-%x\.out",
    "signal": r"B:TERM@\d+",
    "requeue": None,
}


@pytest.fixture(params=COMMANDS)
def command(request) -> str:
    return request.param


@pytest.fixture
def bash(tmp_path):
    """Starts a job file with a `declip-pipe` of one's own on the path."""

    def start(command: str, program: str, *arguments: str) -> subprocess.Popen[str]:
        stub = tmp_path / "bin" / "declip-pipe"
        stub.parent.mkdir()
        stub.write_text(f"#!/usr/bin/env bash\n{program}\n")
        stub.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        return subprocess.Popen(
            ["bash", STAGES / f"{command}.slurm", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"PATH": f"{stub.parent}:{environment['PATH']}"},
        )

    return start


def directives(command: str) -> list[str]:
    lines = (STAGES / f"{command}.slurm").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    found = [line for line in lines if line.startswith("#SBATCH")]
    # SLURM reads none behind the first command.
    assert found == [line for line in lines[:first_command] if line.startswith("#SBATCH")]
    return [line.removeprefix("#SBATCH ") for line in found]


def test_every_command_with_a_stage_has_one():
    assert {file.stem for file in STAGES.glob("*.slurm")} == set(COMMANDS)


def test_it_is_bash(command):
    subprocess.run(["bash", "-n", STAGES / f"{command}.slurm"], check=True)


def test_what_it_asks_for_is_well_formed(command):
    asked = {}
    for directive in directives(command):
        name, _, value = directive.removeprefix("--").partition("=")
        assert directive.startswith("--") and name in SBATCH_OPTIONS, directive
        pattern = SBATCH_OPTIONS[name]
        assert (value == "") if pattern is None else re.fullmatch(pattern, value), directive
        asked[name] = value
    assert asked == {
        "job-name": f"declip-{command}",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "8",
        "gpus": "1",
        "mem": "64G",
        "time": "1-00:00:00",
        "output": "slurm-%j-%x.out",
        "signal": "B:TERM@120",
        "requeue": "",
    }


def test_arguments_and_exit_code_are_passed_on(command, bash):
    job = bash(command, 'printf "%s\\n" "$@"; exit 7', "my data", "--name", "a  b", "*", "")
    out, err = job.communicate(timeout=20)
    assert out == f"{command}\nmy data\n--name\na  b\n*\n\n"
    assert err == ""
    assert job.returncode == 7


def test_sigterm_reaches_the_program(command, bash):
    program = 'trap "echo ending; exit 143" TERM; echo going; while true; do sleep 0.05; done'
    job = bash(command, program)
    assert job.stdout.readline() == "going\n"
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=20)
    assert (out, err) == ("ending\n", "")
    assert job.returncode == 143


def test_the_active_environment_comes_first(tmp_path):
    stub = tmp_path / "bin" / "declip-pipe"
    stub.parent.mkdir()
    stub.write_text("#!/usr/bin/env bash\necho mine\n")
    stub.chmod(0o755)
    found = subprocess.run(
        ["bash", STAGES / "extract.slurm"],
        env=os.environ | {"VIRTUAL_ENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "mine\n"


@pytest.mark.slow
def test_help_of_the_real_program(command):
    environment = os.environ | {"VIRTUAL_ENV": str(Path(sys.executable).parents[1])}
    found = subprocess.run(
        ["bash", STAGES / f"{command}.slurm", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"declip-pipe {command}" in found.stdout
