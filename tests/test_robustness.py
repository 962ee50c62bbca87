"""A short part of benchmarks/robustness.py: damaged inputs and kills, always the same ones."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BAD = ("unclear refusal", "internal error", "wrong result", "hang", "over 2 GB")


@pytest.fixture(scope="module")
def robustness(tmp_path_factory):
    """Runs the benchmark in a copy of its folder, on inputs made once; returns what it wrote."""
    root = tmp_path_factory.mktemp("robustness")
    ignored = shutil.ignore_patterns("results")
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=ignored)

    def run(*options: str) -> tuple[list[dict], str]:
        done = subprocess.run(
            [
                *(sys.executable, root / "benchmarks" / "robustness.py"),
                *("--folder", root / "work", *options),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        written = root / "benchmarks" / "results" / f"robustness_{options[1]}.json"
        return json.loads(written.read_text())["rows"], done.stdout

    return run


@pytest.mark.slow
def test_damaged_inputs_give_the_right_result_or_a_clear_refusal(robustness):
    rows, shown = robustness("--part", "mutations", "--cases", "120")
    whole = rows[-1]
    assert (whole["kind"], whole["cases"]) == ("all", 120)
    assert len(rows) == 19, "each kind has its share"
    assert [whole[outcome] for outcome in BAD] == [0] * len(BAD), shown
    assert min(whole["right"], whole["clear refusal"]) > 10, "damage shows, and not always"


@pytest.mark.slow
def test_killed_commands_given_again_leave_what_undisturbed_ones_leave(robustness):
    rows, shown = robustness("--part", "kills", "--kills", "18")
    whole = rows[-1]
    assert len({row["command"] for row in rows}) == 10, "each command twice"
    assert whole["kills"] >= 9, shown
    assert [whole[name] for name in ("different", "left over", "ended otherwise")] == [0] * 3, shown
