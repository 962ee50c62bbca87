"""Runs on tiles: evaluated image by image, at the images' own size."""

import numpy as np
import pytest
import torch

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.decoders.averaged import AveragedDecoders
from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.joined_scores import joined_maps
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.tiles import Window, joined_map
from declip_pipeline.metrics.localization import localization_metrics
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


def trained(store, folder, **recipe):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=0.01, **recipe),
    )


@pytest.fixture(scope="module")
def run(tiled_store, tmp_path_factory):
    return trained(tiled_store, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(run, tiled_store, shared_dataset):
    """Of each test image by its id: the joined map and the mask of its file."""
    decoder, _ = run.best_decoder()
    samples = tiled_store.samples
    images, image_of = whole_images(samples)
    found = {}
    for number, image in enumerate(images):
        if image.split != "test":
            continue
        rows = np.flatnonzero(image_of == number)
        rows = rows[np.lexsort(samples.places[rows, 1::-1].T)]
        with torch.inference_mode():
            maps = torch.sigmoid(decoder(tiled_store.read_layer("layer1", rows).decoded()))
        windows = [Window(*place) for place in samples.places[rows].tolist()]
        size = (image.height, image.width)
        mask = decode_mask(shared_dataset / image.mask, fake_is_white=True)
        found[image.id] = joined_map(windows, maps.numpy(), image_size=size), mask
    return found


@pytest.mark.parametrize("batch_size", [1, 64])
def test_an_evaluation_has_a_row_an_image_of_its_joined_map(
    run, tiled_store, expected, cpu, batch_size
):
    told = []
    evaluation = evaluate(
        run,
        tiled_store,
        device=cpu,
        batch_size=batch_size,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1] == len(tiled_store.fake_rows("test"))
    table = evaluation.to_pandas().set_index("id")
    assert set(table.index) == set(expected)
    assert len(expected) == 4
    for name, (joined, mask) in expected.items():
        maps, masks = torch.from_numpy(joined)[None], torch.from_numpy(mask)[None]
        for metric, value in localization_metrics(maps, masks).items():
            assert table.loc[name, metric] == pytest.approx(value.item(), abs=1e-6), metric
        assert table.loc[name, "score"] == pytest.approx(joined.mean(), abs=1e-6)
        assert table.loc[name, "fake_share"] == (joined > 0.5).mean()
        assert table.loc[name, "has_fake"]
    assert set(table["scene"]) == set(expected)


def test_joined_maps_come_with_the_images_masks(run, tiled_store, expected, cpu):
    decoders = AveragedDecoders([run.decoder()])
    rows = tiled_store.fake_rows("test")
    images, _ = whole_images(tiled_store.samples.take(rows))
    found = list(joined_maps(decoders, tiled_store, [FeatureSource("layer1")], rows, device=cpu))
    for name, (joined, mask) in zip(images.ids, found, strict=True):
        np.testing.assert_allclose(joined, expected[name][0], atol=1e-6)
        np.testing.assert_array_equal(mask, expected[name][1])


def test_values_of_an_evaluation_are_taken_again(run, tiled_store, cpu):
    first = evaluate(run, tiled_store, device=cpu)
    first.save(run.path / "evaluations")
    again = evaluate(run, tiled_store, device=cpu, reuse=True)
    # As pandas compares them: no minimum size is known of tiles.
    assert again.to_pandas().equals(first.to_pandas())


def test_a_run_on_tiles_refuses_whole_images_and_the_reverse(
    run, tiled_store, shared_dataset, tile_backbone, tmp_path, cpu
):
    extraction = extract_store(
        open_dataset(shared_dataset), tile_backbone, layers=["layer1"], root=tmp_path
    )
    whole = Store(extraction.location)
    with pytest.raises(
        IdentityMismatchError,
        match=r"tiles differs: the run .* was trained on tiles of 56 pixels, .* has whole",
    ):
        evaluate(run, whole, device=cpu)
    other = trained(whole, tmp_path)
    with pytest.raises(
        IdentityMismatchError,
        match=r"tiles differs: the run .* was trained on whole images, .* has tiles of 56",
    ):
        evaluate(other, tiled_store, device=cpu)


def test_tiles_of_another_overlap_have_the_same_features(
    run, shared_dataset, tile_backbone, tmp_path, cpu, tiled_store
):
    extraction = extract_store(
        open_dataset(shared_dataset),
        tile_backbone,
        layers=["layer1"],
        root=tmp_path,
        tiles=type(tiled_store.tiling)(56, 0.7),
    )
    evaluation = evaluate(run, extraction.location, device=cpu)
    assert evaluation.table.num_rows == 4


@pytest.fixture(scope="module")
def mixed_tiles(mixed_store, tile_backbone, tmp_path_factory, tiled_store):
    extraction = extract_store(
        open_dataset(mixed_store.provenance["root"]),
        tile_backbone,
        layers=["layer1"],
        root=tmp_path_factory.mktemp("cache"),
        tiles=tiled_store.tiling,
        dtype="float32",
    )
    return Store(extraction.location)


def test_detection_scores_an_image_by_all_its_tiles(run, mixed_tiles, cpu):
    evaluation = evaluate(run, mixed_tiles, task="detection", device=cpu, batch_size=3)
    images, image_of = whole_images(mixed_tiles.samples)
    decoder, _ = run.best_decoder()
    table = evaluation.to_pandas().set_index("id")
    assert len(table) == 13
    for name in table.index[:3]:
        rows = np.flatnonzero(image_of == images.ids.index(name))
        with torch.inference_mode():
            logits = decoder(mixed_tiles.read_layer("layer1", rows).decoded()).double()
        assert table.loc[name, "mean_sigmoid"] == pytest.approx(float(logits.sigmoid().mean()))
    assert evaluation.calibration.num_rows == 16


def test_detection_is_not_learned_from_tiles(mixed_tiles, tmp_path):
    with pytest.raises(
        InputError, match=r"holds tiles of 56:0.25; detection learns labels of whole images"
    ):
        trained(mixed_tiles, tmp_path, pooling="mean")
