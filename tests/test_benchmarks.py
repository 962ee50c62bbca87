"""Every benchmark runs, at sizes that say nothing about speed, and writes its JSON."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """A copy of the folder: results are written beside the scripts."""
    copy = tmp_path_factory.mktemp("copy") / "benchmarks"
    shutil.copytree(ROOT / "benchmarks", copy, ignore=shutil.ignore_patterns("results"))
    return copy


@pytest.mark.parametrize("script", sorted(path.stem for path in ROOT.glob("benchmarks/*.py")))
def test_a_script_is_imported(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    importlib.import_module(script)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("store.py --images 64", "store"),
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
        (
            "resolution.py --folder resolution --canvases 1 1 1 --models efficientnet-lite0 "
            "--seeds 0 --steps 1 --decoder linear --overlap 0 --name tiny_resolution",
            "tiny_resolution",
        ),
        ("report_page.py --images 8 --rounds 1", "report_page"),
        ("report_page.py --part charts --rounds 1", "report_charts"),
        ("scale.py --samples 500 --files 40 --openings 1", "scale"),
        ("light_decoders.py --rounds 1 --part parts", "light_decoders"),
        ("light_decoders.py --rounds 1 --part steps", "light_steps"),
        (
            "recipes.py --folder recipes --part small --images 4 8 --valid 2 --decoders linear mlp "
            "--recipes auto demo --name tiny_recipes",
            "tiny_recipes",
        ),
        ("activations.py --images 1 --arch efficientnet-lite0", "activations"),
        (
            "engines.py --models dinov2-vit-s14 --batch-size 1 --rounds 1 "
            "--engines pytorch backbone onnxruntime",
            "engines",
        ),
        ("bounds.py --folder bounds --part generators --images 4 2 2", "bounds_generators"),
        ("encoding.py --side 64 --rounds 1", "encoding"),
        ("metrics.py --images 4 --rounds 1", "metrics"),
        ("evaluate_memory.py --megapixels 1", "evaluate_memory"),
        ("robustness.py --part mutations --cases 4 --only lists", "robustness_mutations"),
    ],
)
def test_a_benchmark_runs(benchmarks, command, written):
    script, *options = command.split()
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, benchmarks / script, *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=place,
        cwd=benchmarks,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((benchmarks / "results" / f"{written}.json").read_text())
    assert result["rows"]


def test_a_region_is_found_where_half_of_its_pixels_are(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    resolution = importlib.import_module("resolution")
    mask = np.zeros((12, 12), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True  # one region: they touch at a corner
    mask[6:8, 6:8] = True
    mask[10:12, 0:2] = True
    probability = np.full(mask.shape, 0.5)
    probability[0:2, 0:2] = 0.6  # half of the first
    probability[6, 6] = 1.0  # a quarter of the second
    assert resolution.found_regions(probability, mask) == (1, 3)
    assert resolution.found_regions(np.ones(mask.shape), mask) == (3, 3)
