"""Training on tiles, alone and with whole views of their images beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TILES

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.tiles import image_ids, tiled, whole_images
from declip_pipeline.decoders.at_windows import features_at_windows
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.tiles import Tiling, window_shares
from declip_pipeline.metrics.localization import iou_from_counts
from declip_pipeline.store.reader import Store
from declip_pipeline.training import tile_choice
from declip_pipeline.training.data import TrainingData, sources_beside
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run
from declip_pipeline.training.tile_choice import learned_tiles
from declip_pipeline.training.validation import Candidate, validation_ious

RECIPE = Recipe("linear", epochs=2, batch_size=4, learning_rate=0.01)


def trained(data, folder, **changes):
    return train_run(data, folder, layer="layer1", recipe=replace(RECIPE, **changes))


@pytest.fixture(scope="module")
def whole_store(extracted):
    """Whole views of the images of `tiled_store`, in another order of rows."""
    return extracted()


def data_of(tiled_store, whole_store=None, **options):
    beside = [] if whole_store is None else sources_beside([(whole_store, "layer2")])
    return TrainingData([tiled_store], beside=beside, device=torch.device("cpu"), **options)


def test_a_run_on_tiles_records_them(tiled_store, tmp_path):
    run = trained(data_of(tiled_store), tmp_path)
    config = run.config()
    assert config["features"]["tiles"] == 56
    assert config["inputs"][0]["tiles"] == "56:0.25"
    assert config["validation"] == "IoU of each image over all of its tiles together"
    assert run.summary()["valid_images"] == len(tiled_store.fake_rows("valid"))


def test_the_validation_iou_is_that_of_images_over_all_their_tiles(tiled_store, tmp_path):
    data = data_of(tiled_store)
    run = trained(data, tmp_path)
    decoder, _ = run.best_decoder()
    rows = tiled_store.fake_rows("valid")
    images, image_of = whole_images(tiled_store.samples.take(rows))
    with torch.inference_mode():
        called = decoder(tiled_store.read_layer("layer1", rows).decoded()) > 0
    fake = torch.from_numpy(tiled_store.read_targets(rows)) > 127
    counts = (called & fake, called, fake)
    expected = [
        float(iou_from_counts(*(some[image_of == one].sum() for some in counts)))
        for one in range(len(images))
    ]
    assert len(images) < len(rows)
    assert run.summary()["best_valid_iou"] == pytest.approx(np.mean(expected))
    feeds = data.feeds([data.inputs("layer1")], data.generators)
    candidate = Candidate(decoder, lambda inputs: decoder(*inputs), data.inputs("layer1").sources)
    assert validation_ious([candidate], feeds[1], 2)[0] == pytest.approx(np.mean(expected))


class _Targets:
    """What `learned_tiles` asks of a store: samples, and targets of which some have fake pixels."""

    def __init__(self, samples, is_forged):
        self.samples = samples
        self._is_forged = np.asarray(is_forged)

    def read_targets(self, rows):
        targets = np.zeros((len(rows), 256, 256), np.uint8)
        targets[self._is_forged[rows], 10, 10] = 255
        targets[:, 20, 20] = 127
        return targets


def test_as_many_empty_tiles_as_forged_ones_are_learned_of_each_image():
    images = [
        Sample(name, f"{name}.png", "m.png", "train", "lama", 1, "set", "", 160, 160)
        for name in ("a", "b", "c")
    ]
    samples = tiled(Samples.from_rows(images), Tiling(64, 0.5))
    is_forged = np.zeros(len(samples), bool)
    is_forged[[0, 1, 5]] = True  # of a
    is_forged[16:30] = True  # of b, nearly all
    rows = np.arange(len(samples))
    chosen = learned_tiles(_Targets(samples, is_forged), rows)
    names = np.array(image_ids(samples))[chosen]
    assert [int((names == one).sum()) for one in "abc"] == [6, 16, 0]
    assert set(np.flatnonzero(is_forged)) <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    # The same ones, whatever else the store has.
    alone = learned_tiles(_Targets(samples, is_forged), np.arange(16))
    assert set(alone.tolist()) == {row for row in chosen.tolist() if row < 16}


def test_what_is_learned_from_tiles_is_said_and_recorded(tiled_store, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_choice, "fake_shares", lambda store, rows: np.arange(len(rows)) % 4)
    monkeypatch.setattr(tile_choice, "EMPTY_PER_FORGED", 0)
    said = []
    run = trained(data_of(tiled_store, notice=said.append), tmp_path)
    rows = tiled_store.fake_rows("train")
    learned = learned_tiles(tiled_store, rows)
    assert 0 < len(learned) < len(rows)
    text = "tiles with a fake pixel, and as many without one of each image"
    assert f"learning from {len(learned)} of {len(rows)} tiles: {text}" in said
    assert run.config()["learned"] == text
    assert run.summary()["train_images"] == len(learned)


def test_a_constant_map_is_scored_by_image_too(tiled_store):
    data = data_of(tiled_store)
    rows = tiled_store.fake_rows("valid")
    shares = (tiled_store.read_targets(rows) > 127).mean(axis=(1, 2))
    _, image_of = whole_images(tiled_store.samples.take(rows))
    means = [shares[image_of == one].mean() for one in range(image_of.max() + 1)]
    assert data.constant_score(data.generators, "masks") == pytest.approx(100 * np.mean(means))


@pytest.mark.parametrize("tier", ["memory", "stream"])
def test_whole_views_are_fed_at_the_places_of_tiles(tiled_store, whole_store, cpu, tier):
    source = FeatureSource("layer2", (whole_store,))
    rows = tiled_store.fake_rows("train")
    feed = Feed([(tiled_store, rows)], [FeatureSource("layer1"), source], device=cpu, tier=tier)
    order = np.random.default_rng(0).permutation(len(rows))
    found = torch.cat(
        [piece.features(source) for batch in feed.batches(order, 5) for piece in batch.pieces(2)]
    )
    samples = tiled_store.samples.take(rows[order])
    own = whole_store.samples.find(image_ids(samples))
    shares = torch.from_numpy(window_shares(samples.places, samples.sizes))
    expected = features_at_windows(
        whole_store.read_layer("layer2", own).decoded(), whole_store.layers["layer2"], shares
    )
    torch.testing.assert_close(found, expected)
    # Each whole view is kept once, however many tiles it stands beside.
    images = len(set(image_ids(samples)))
    tile_bytes = sum(len(rows) * n for n in (tiled_store.bytes_per_row("layer1"), 256**2))
    assert feed.bytes == tile_bytes + images * whole_store.bytes_per_row("layer2")


def test_a_run_with_whole_views_beside_is_trained_and_evaluated(
    tiled_store, whole_store, tmp_path, cpu
):
    run = trained(data_of(tiled_store, whole_store), tmp_path)
    parts = run.config()["features"]["parts"]
    assert [part.get("tiles") for part in parts] == [56, None]
    assert [part.get("windows") for part in parts] == [None, 56]
    assert "layer1-whole-layer2" in run.path.name or "whole" in run.path.name
    evaluation = evaluate(run, tiled_store, beside=[whole_store], device=cpu)
    assert evaluation.table.num_rows == 4
    with pytest.raises(
        InputError,
        match=r"was trained on layer2 of CLIP:from-file, seeing whole images, as well, which .* "
        r"has not; give a store of it with `beside`",
    ):
        evaluate(run, tiled_store, device=cpu)


def test_whole_images_do_not_take_tiles_beside_and_tiles_no_others(
    tiled_store, whole_store, shared_dataset, tile_backbone, tmp_path
):
    with pytest.raises(InputError, match=r"cannot stand beside .*: its rows are tiles; expected"):
        data_of(whole_store, tiled_store).inputs("layer1")
    others = extract_store(
        open_dataset(shared_dataset),
        tile_backbone,
        layers=["layer2"],
        root=tmp_path,
        tiles=Tiling(56, 0.7),
    )
    with pytest.raises(InputError, match=r"cannot stand beside .*: its tiles are others; expected"):
        data_of(tiled_store, Store(others.location)).inputs("layer1")


@pytest.mark.slow
def test_without_a_cache_tiles_give_the_same_losses(tiled_store, whole_store, tmp_path):
    cached = trained(data_of(tiled_store), tmp_path / "cached")
    again = trained(data_of(tiled_store, uncached=True), tmp_path / "again")
    for one, other in zip(cached.epochs(), again.epochs(), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
        assert one["valid_iou"] == pytest.approx(other["valid_iou"], abs=1e-3)
    with pytest.raises(InputError, match="`uncached=True` computes the features of tiles"):
        trained(data_of(tiled_store, whole_store, uncached=True), tmp_path)
    assert tiled_store.tiling == TILES
