"""Values are read again as they were written, and only where they are still true."""

import json

import pytest
from support.made_evaluation import detected, localized

from declip_pipeline.evaluation.files import read_values, write_files

MADE_FROM = {"store": "a" * 64, "checkpoint_sha256": "b" * 64, "split": "test"}
RUNS = {
    "localization": localized("ldm", ldm=[100 / 3, 1e-17, None], lama=[5.0]),
    "detection": detected("ldm", real=[1 / 3, 1e-17], ldm=[0.9]),
}
TABLES = {"localization": "per_image.csv", "detection": "detection.csv"}
SUMMARIES = {"localization": "summary.json", "detection": "detection.json"}


@pytest.fixture(params=list(RUNS))
def task(request):
    return request.param


@pytest.fixture
def read(task, tmp_path):
    run = RUNS[task]
    write_files(tmp_path, task, run.table, run.scores, MADE_FROM, {"overall": {"iou": 1.0}})
    ids = run.values("id").tolist()

    def read(folder=tmp_path, made_from=MADE_FROM, ids=ids):
        return read_values(folder, task, made_from, ids, run.scores)

    return read


def test_values_are_read_to_the_last_bit(task, read, tmp_path):
    found = read()
    for name, values in found.items():
        assert values.tolist() == RUNS[task].values(name).tolist()
    names = ["mean_sigmoid"] if task == "detection" else ["has_fake", "iou", "f1_best"]
    assert list(found)[:3] == names
    summary = json.loads((tmp_path / SUMMARIES[task]).read_text())
    assert summary["overall"] == {"iou": 1.0}


@pytest.mark.parametrize("name", MADE_FROM)
def test_values_that_follow_from_something_else_are_not_read(read, name):
    assert read(made_from=MADE_FROM | {name: "c" * 64}) is None


def test_values_of_other_images_are_not_read(read):
    assert read(ids=["another"]) is None


def test_what_was_changed_or_is_missing_is_not_read(task, read, tmp_path):
    table = tmp_path / TABLES[task]
    whole = table.read_bytes()
    table.write_bytes(whole.replace(b"ldm", b"lama"))
    assert read() is None
    table.unlink()
    assert read() is None
    table.write_bytes(whole)
    assert read() is not None
    for text in ("[]", "{"):
        (tmp_path / SUMMARIES[task]).write_text(text)
        assert read() is None
    assert read(folder=tmp_path / "nowhere") is None
