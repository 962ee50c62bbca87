"""Maps in galleries and sheets: those that runs, ensembles and folders of maps give themselves."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_dataset import write_mixed_dataset
from support.made_maps import maps_of, masks_of, write_maps

from declip_pipeline.datasets.file_images import DatasetImages
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluated_source import evaluated_source
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.tiles import Window, joined_map
from declip_pipeline.reports.shown_images import SIDE, shown_images
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

LAYERS = ("layer1", "layer2")


def trained(store, folder, layer="layer1"):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer=layer,
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2),
    )


@pytest.fixture(scope="module")
def runs(mixed_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [trained(mixed_store, folder, layer) for layer in LAYERS]


@pytest.fixture(scope="module")
def folder(mixed_store, tmp_path_factory):
    return write_maps(tmp_path_factory.mktemp("maps"), maps_of(mixed_store))


def small(heat):
    picture = Image.fromarray(heat).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(picture).clip(0, 1)


def decoded(run, store, layer, row):
    """The logits of a run's decoder for a row, (256, 256)."""
    features = store.read_layer(layer, np.array([row])).decoded()
    with torch.inference_mode():
        return run.decoder()(features)[0]


def shown(evaluation, cpu, **options):
    (about,) = evaluation.stores
    ids = evaluation.table.column("id").to_pylist() + evaluation.real.column("id").to_pylist()
    found = list(shown_images(evaluation, about.location, ids, Store, device=cpu, **options))
    assert sorted(name for name, *_ in found) == sorted(ids)
    return found


@pytest.mark.parametrize("members", [[0], [1], [0, 1]])
def test_maps_of_runs_are_those_of_their_mean_logits(runs, mixed_store, cpu, members):
    evaluation = evaluate(Ensemble([runs[n] for n in members]), mixed_store, device=cpu)
    found = shown(evaluation, cpu)
    assert len(found) == 13
    masks = masks_of(mixed_store)
    for name, size, own in found:
        (row,) = mixed_store.samples.find([name])
        logits = [decoded(runs[n], mixed_store, LAYERS[n], row) for n in members]
        expected = small(torch.sigmoid(torch.stack(logits).mean(0)).numpy())
        np.testing.assert_allclose(own.heat, expected, atol=1e-5)
        np.testing.assert_array_equal(own.image, mixed_store.read_thumbnails(np.array([row]))[0])
        mask = Image.fromarray(masks[name]).convert("L").resize((SIDE, SIDE), Image.BILINEAR)
        np.testing.assert_array_equal(own.truth, np.asarray(mask) >= 128)
        assert size == masks[name].shape


def test_maps_of_a_folder_are_those_of_its_files(folder, mixed_store, cpu):
    evaluation = evaluate(MapFolder(folder, "tool"), mixed_store, device=cpu)
    found = shown(evaluation, cpu)
    assert len(found) == 13
    for name, _, own in found:
        np.testing.assert_allclose(own.heat, small(np.load(folder / f"{name}.npy")), atol=1e-6)
        (row,) = mixed_store.samples.find([name])
        np.testing.assert_array_equal(own.image, mixed_store.read_thumbnails(np.array([row]))[0])


def test_maps_of_tiles_are_joined(tiled_store, tmp_path, cpu):
    run = trained(tiled_store, tmp_path / "runs")
    samples = tiled_store.samples
    images, image_of = whole_images(samples)
    folder = write_maps(tmp_path / "maps", maps_of(tiled_store))
    for source in (run, MapFolder(folder, "tool")):
        for name, size, own in shown(evaluate(source, tiled_store, device=cpu), cpu):
            rows = np.flatnonzero(image_of == images.ids.index(name))
            windows = [Window(*place) for place in samples.places[rows].tolist()]
            if source is run:
                maps = [
                    torch.sigmoid(decoded(run, tiled_store, "layer1", row)).numpy() for row in rows
                ]
                expected = joined_map(windows, maps, image_size=size)
            else:
                expected = np.load(folder / f"{name}.npy")
            # Of small images as they are.
            assert own.image.shape[:2] == own.truth.shape == size
            np.testing.assert_allclose(own.heat, expected, atol=1e-5)
            np.testing.assert_array_equal(own.truth, tiled_store.image_mask(rows))


def test_images_without_a_store_come_from_their_files(tmp_path, cpu):
    root = write_mixed_dataset(tmp_path / "mixed")
    dataset = open_dataset(root)
    images = DatasetImages(dataset)
    folder = write_maps(tmp_path / "maps", maps_of(images))
    evaluation = evaluate(MapFolder(folder, "tool"), dataset, device=cpu)
    for name, size, own in shown(evaluation, cpu):
        (row,) = images.samples.find([name])
        image = decode_image(root / images.samples[int(row)].image)
        assert size == image.shape[:2]
        expected = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(own.image, np.asarray(expected))
        np.testing.assert_allclose(own.heat, small(np.load(folder / f"{name}.npy")), atol=1e-6)
    name = images.samples[int(row)].image
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name} of .* is not there any more, or another image"):
        shown(evaluation, cpu)


def test_a_source_of_an_evaluation_is_the_one_that_was_evaluated(runs, folder, mixed_store, cpu):
    tool = MapFolder(
        folder, "tool", maps_are="logits", resize_maps=True, maps_key="map", trained_on=["ldm"]
    )
    for source in (Ensemble(runs[:1]), Ensemble(runs), MapFolder(folder, "tool")):
        evaluation = evaluate(source, mixed_store, device=cpu)
        assert evaluated_source(evaluation).config() == source.config()
    assert MapFolder.from_config(tool.config()).config() == tool.config()


def test_a_map_that_is_gone_is_said(folder, mixed_store, tmp_path, cpu):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    evaluation = evaluate(MapFolder(copy, "tool"), mixed_store, device=cpu)
    name = evaluation.table.column("id").to_pylist()[0]
    (copy / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=f"tool has no map of {name} any more, which was eval"):
        shown(evaluation, cpu)
