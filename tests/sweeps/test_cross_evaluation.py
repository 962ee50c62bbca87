"""Runs judged on stores leave files, and the matrix has its cells in place."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.sweeps.cross_evaluation import Evaluation, evaluate_run, iou_matrix
from declip_pipeline.training.localization_run import localization_run


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    return localization_run(
        [tiny_store],
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        decoder_type="linear",
        epochs=2,
        batch_size=4,
        device=torch.device("cpu"),
    )


def test_an_evaluation_leaves_a_table_and_a_summary(run, tiny_store, cpu):
    evaluation = evaluate_run(run, tiny_store, split="test", device=cpu)
    assert evaluation.trained_on == "noisy"
    rows = list(csv.DictReader((evaluation.folder / "per_image.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [
        tiny_store.samples[row]["id"] for row in tiny_store.fake_rows("test")
    ]
    mean = np.mean([float(row["iou"]) for row in rows])
    assert evaluation.figures["noisy"]["iou"] == pytest.approx(mean)
    summary = json.loads((evaluation.folder / "summary.json").read_text())
    assert summary["by_generator"] == evaluation.figures
    assert summary["overall"]["images"] == 4
    assert summary["store"] == tiny_store.identity.sha256


def test_an_unfinished_run_is_refused(run, tiny_store, cpu, tmp_path):
    folder = type(run)(tmp_path / "run")
    folder.begin(run.config(), run.config()["run_sha256"])
    with pytest.raises(InputError, match="is not finished; run the same `declip-pipe train`"):
        evaluate_run(folder, tiny_store, split="test", device=cpu)


def evaluation(trained_on, **figures):
    named = {name.replace("_", "-"): {"iou": iou} for name, iou in figures.items()}
    return Evaluation(Path(), Path(), Path(), trained_on, named, [])


def test_the_matrix_has_tests_as_rows_and_trainings_as_columns():
    values, rows, columns = iou_matrix(
        [
            evaluation("ldm", ldm=80.0, lama=20.0, repaint=None),
            evaluation("lama", ldm=10.0, lama=90.0),
            evaluation("lama", ldm=20.0),
        ]
    )
    assert rows == ["lama", "ldm", "repaint"]
    assert columns == ["lama", "ldm"]
    np.testing.assert_array_equal(values, [[90, 20], [15, 80], [np.nan, np.nan]])
