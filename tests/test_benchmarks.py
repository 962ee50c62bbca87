"""Every benchmark runs, at sizes that say nothing about speed, and writes its JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """A copy of the folder: results are written beside the scripts."""
    copy = tmp_path_factory.mktemp("copy") / "benchmarks"
    shutil.copytree(ROOT / "benchmarks", copy, ignore=shutil.ignore_patterns("results"))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("store.py --images 128", "store"),
        ("extract.py --images 4 --batch-size 2 --rounds 1 --name tiny", "tiny"),
        (
            "train.py --parts bare --decoders linear --images 2 --batch-size 8 --rounds 1 "
            "--name tiny_train",
            "tiny_train_bare",
        ),
        (
            "predict.py --images 3 --rounds 1 --models efficientnet-lite0 --few 4 --many 8 "
            "--megapixels 0.1 0.2 --tiled-megapixels 0.1 --name tiny_predict",
            "tiny_predict_memory",
        ),
        ("scale.py --samples 2000 --files 40", "scale"),
        ("light_decoders.py --rounds 1 --part parts", "light_decoders"),
        ("light_decoders.py --rounds 1 --part steps", "light_steps"),
        ("activations.py --images 1 --arch efficientnet-lite0", "activations"),
        ("metrics.py", "metrics"),
        ("evaluate_memory.py --megapixels 1", "evaluate_memory"),
        ("robustness.py --part mutations --cases 4 --only lists", "robustness_mutations"),
    ],
)
def test_a_benchmark_runs(benchmarks, command, written):
    script, *options = command.split()
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, benchmarks / script, *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=place,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((benchmarks / "results" / f"{written}.json").read_text())
    assert result["rows"]
