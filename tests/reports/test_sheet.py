import csv

import pytest
import torch
from PIL import Image
from support.made_maps import maps_of, write_maps

from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.reports.sheet import draw_sheet
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def evaluation(mixed_store, tmp_path_factory):
    run = train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2),
        train_on=["ldm"],
    )
    return evaluate(run, mixed_store, device="cpu")


def rows_of(path):
    with path.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_and_the_worst_of_each_generator_are_drawn(evaluation, tmp_path, cpu):
    path = draw_sheet([evaluation], tmp_path / "sheet.png", Store, device=cpu)
    with Image.open(path) as picture:
        assert picture.height > picture.width
    rows = rows_of(path)
    assert [row["generator"] for row in rows] == ["lama", "lama", "ldm", "ldm"]
    for name in ("lama", "ldm"):
        found = [float(row["iou"]) for row in rows if row["generator"] == name]
        ious = evaluation.of(name).values("iou")
        assert found == pytest.approx([ious.max(), ious.min()])


def test_ensembles_and_maps_are_drawn_as_runs(evaluation, mixed_store, tmp_path, cpu):
    other = train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path,
        layer="layer2",
        recipe=Recipe("linear", epochs=1, batch_size=4, learning_rate=1e-2),
    )
    folder = write_maps(tmp_path / "maps", maps_of(mixed_store))
    for source in (Ensemble([evaluation.run, other]), MapFolder(folder, "tool")):
        one = evaluate(source, mixed_store, device="cpu")
        path = draw_sheet([one], tmp_path / f"{one.run.name}.png", Store, device=cpu)
        rows = rows_of(path)
        assert {row["run"] for row in rows} == {one.run.name}
        for name in ("lama", "ldm"):
            found = [float(row["iou"]) for row in rows if row["generator"] == name]
            ious = one.of(name).values("iou")
            assert found == pytest.approx([ious.max(), ious.min()])


def test_quantiles_and_generators_are_chosen(evaluation, tmp_path, cpu):
    path = draw_sheet(
        [evaluation],
        tmp_path / "s.png",
        Store,
        quantiles=(0.5,),
        in_domain_only=True,
        device=cpu,
    )
    assert [row["generator"] for row in rows_of(path)] == ["ldm"]
