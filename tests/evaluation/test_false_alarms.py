"""False alarms on real images, and IoU as was best on `valid`."""

import csv
import json

import numpy as np
import pytest
import torch
from support.made_evaluation import localized

from declip_pipeline.decoders.averaged import AveragedDecoders
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import merged
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.metrics import DEFAULT_METRICS
from declip_pipeline.evaluation.pairs import compared
from declip_pipeline.evaluation.scores import MEAN_SIGMOID, localize
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.localization import intersection_over_union
from declip_pipeline.metrics.regions import without_small_regions
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def run(mixed_store, tmp_path_factory):
    return train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2),
    )


@pytest.fixture(scope="module")
def evaluation(run, mixed_store):
    return evaluate(run, mixed_store, device="cpu")


def maps_of(run, store, rows):
    decoder = run.decoder()
    with torch.inference_mode():
        logits = decoder(store.read_layer("layer1", rows).decoded())
    return [probability_maps(logits[[n]], *store.sizes[row].tolist()) for n, row in enumerate(rows)]


def test_false_alarms_are_those_of_the_maps(run, evaluation, mixed_store):
    both = mixed_store.fake_and_real_rows("test")
    rows = both[mixed_store.labels[both] == 0]
    figures = evaluation.false_alarms()
    assert figures["real_images"] == len(rows) == 5
    maps, threshold = maps_of(run, mixed_store, rows), run.require_valid_threshold()
    assert threshold != 0.5
    masks = {
        "": [one > 0.5 for one in maps],
        "_valid_threshold": [one > threshold for one in maps],
        "_min_region": [
            torch.from_numpy(without_small_regions((one[0] > 0.5).numpy(), run.min_region))
            for one in maps
        ],
    }
    for behind, called in masks.items():
        shares = np.array([float(one.double().mean()) for one in called])
        expected = {
            "false_alarm_pixels": shares,
            "false_alarm_images": shares > 0,
            "large_false_alarm_images": shares > 0.01,
        }
        for name, values in expected.items():
            found = figures[f"{name}{behind}"]
            assert found == pytest.approx(100 * values.mean(), abs=1e-4)
            assert figures[f"{name}{behind}_low"] <= found <= figures[f"{name}{behind}_high"]
    # They are in no mean of the fakes.
    assert evaluation.table.num_rows == 8 and evaluation.figures()["images_without_fake"] == 0


def test_the_metric_at_the_threshold_of_valid_is_the_iou_there(run, evaluation, mixed_store):
    rows = mixed_store.fake_rows("test")
    threshold = run.require_valid_threshold()
    found = [
        float(
            intersection_over_union(
                one, torch.from_numpy(mixed_store.read_masks(rows[[n]])), threshold
            )
        )
        for n, one in enumerate(maps_of(run, mixed_store, rows))
    ]
    assert evaluation.values("iou_valid_threshold").tolist() == pytest.approx(found, abs=0.5)
    assert evaluation.mean("iou_valid_threshold") == pytest.approx(np.mean(found), abs=0.5)


def test_iou_without_small_regions_is_that_of_masks_without_them(run, mixed_store, monkeypatch):
    monkeypatch.setattr(Run, "min_region", 0.03)
    evaluation = evaluate(run, mixed_store, device="cpu")
    rows = mixed_store.fake_rows("test")
    maps = [one[0].numpy() for one in maps_of(run, mixed_store, rows)]
    masks = [mixed_store.read_masks(rows[[n]])[0] for n in range(len(rows))]
    kept = [without_small_regions(one > 0.5, 0.03) for one in maps]
    found = [
        100 * (own & mask).sum() / (own | mask).sum() for own, mask in zip(kept, masks, strict=True)
    ]
    assert evaluation.values("iou_min_region").tolist() == pytest.approx(found, abs=0.5)
    assert evaluation.mean("iou_min_region") != pytest.approx(evaluation.mean("iou"), abs=0.01)


def test_files_of_real_images_are_written_and_read_again(run, evaluation, mixed_store, monkeypatch):
    (folder,) = evaluation.save(run.path / EVALUATIONS)
    with (folder / "false_alarms.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("id", "split", "scene", "score", "score_max", "score_top", "fake_share"),
        *("fake_share_valid_threshold", "fake_share_min_region"),
    ]
    assert len(rows) == 5 and {row["split"] for row in rows} == {"test"}
    summary = json.loads((folder / "false_alarms.json").read_text())
    assert summary["false_alarm_pixels"] == evaluation.false_alarms()["false_alarm_pixels"]
    with monkeypatch.context() as patch:
        patch.setattr("declip_pipeline.evaluation.ensemble.localize", None)
        again = evaluate(run, mixed_store, device="cpu", reuse=True)
    assert again.false_alarms() == evaluation.false_alarms()
    assert again.figures() == evaluation.figures()


def test_a_store_without_real_images_has_none(tiny_run, tiny_store, tmp_path):
    evaluation = evaluate(tiny_run, tiny_store, device="cpu")
    figures = evaluation.false_alarms()
    assert figures["real_images"] == 0 and figures["false_alarm_pixels"] is None
    (folder,) = evaluation.save(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["per_image.csv", "summary.json"]


def test_of_joined_evaluations_each_real_image_counts_once(evaluation):
    assert merged([evaluation, evaluation])[0].false_alarms() == evaluation.false_alarms()


def test_a_run_without_a_threshold_has_no_figure_at_it(mixed_store, run, cpu):
    rows = mixed_store.fake_rows("test")
    decoders = AveragedDecoders([run.decoder()])
    values = localize(decoders, mixed_store, [FeatureSource("layer1")], rows, device=cpu)
    assert np.isnan(values["iou_valid_threshold"]).all()
    assert np.isnan(values["fake_share_valid_threshold"]).all()
    assert (
        np.isnan(values["iou_min_region"]).all() and np.isnan(values["fake_share_min_region"]).all()
    )
    assert not np.isnan(values["fake_share"]).any()
    one = localized("ldm", 0, ldm=[80.0, 60.0])
    names = one.table.column_names
    place = names.index("iou_valid_threshold")
    none = one.table.set_column(place, "iou_valid_threshold", [[float("nan")] * 2])
    without = type(one)(one.run, one.config, one.task, one.split, one.stores, none, *[one.real] * 2)
    assert without.figures()["iou_valid_threshold"] is None
    assert without.figures()["iou"] == 70.0
    other = localized("ldm", 1, ldm=[50.0, 60.0])
    means, _ = compared([[without], [other]], score=MEAN_SIGMOID)
    assert {one.metric for one in means} == {*DEFAULT_METRICS} - {"iou_valid_threshold"}
