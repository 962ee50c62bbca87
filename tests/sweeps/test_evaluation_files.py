"""Results are read again as they were written, and only where they are still true."""

import json

import pytest

from declip_pipeline.evaluation.localization import ImageResult
from declip_pipeline.sweeps.evaluation_files import read_results, write_evaluation

MADE_FROM = {"store": "a" * 64, "checkpoint_sha256": "b" * 64, "split": "test"}
RESULTS = [
    ImageResult("a, b\n", "test", "ldm", True, 1 / 3, 0.1, 1e-17, 1.0, 0.25, 0.0, "set/test/a"),
    ImageResult("c", "test", "lama", False, 0.0, float("nan"), 0.5, 0.5, 0.5, 1.0),
]


@pytest.fixture
def folder(tmp_path):
    write_evaluation(tmp_path, RESULTS, MADE_FROM, {"overall": {"iou": 1.0}})
    return tmp_path


def test_results_are_read_to_the_last_bit(folder):
    found = read_results(folder, MADE_FROM)
    assert repr(found) == repr(RESULTS)
    assert json.loads((folder / "summary.json").read_text())["overall"] == {"iou": 1.0}


@pytest.mark.parametrize("name", MADE_FROM)
def test_results_that_follow_from_something_else_are_not_read(folder, name):
    assert read_results(folder, MADE_FROM | {name: "c" * 64}) is None


def test_what_was_changed_or_is_missing_is_not_read(folder, tmp_path):
    table = folder / "per_image.csv"
    whole = table.read_text()
    table.write_text(whole.replace("ldm", "lama"))
    assert read_results(folder, MADE_FROM) is None
    table.unlink()
    assert read_results(folder, MADE_FROM) is None
    table.write_text(whole)
    (folder / "summary.json").write_text("[]")
    assert read_results(folder, MADE_FROM) is None
    (folder / "summary.json").write_text("{")
    assert read_results(folder, MADE_FROM) is None
    assert read_results(tmp_path / "nowhere", MADE_FROM) is None
