"""Prediction of many images through the library: maps, several runs, tiles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_dataset import forged_picture

import declip_pipeline as dp
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.decoders.at_windows import features_at_windows
from declip_pipeline.errors import IdentityMismatchError, InputError, OutputExistsError
from declip_pipeline.images.resize import resize_image
from declip_pipeline.images.tiles import Tiling, joined_map, window_shares
from declip_pipeline.metrics.regions import without_small_regions
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run

SIZES = [(40, 56), (200, 150), (90, 131)]


def trained(store, folder, layer):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer=layer,
        recipe=Recipe(
            "linear", epochs=2, batch_size=4, learning_rate=0.01, initialization="pytorch"
        ),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(tiny_store, folder):
    return [trained(tiny_store, folder, layer) for layer in ("layer1", "layer2")]


@pytest.fixture(scope="module")
def tiled_run(tiled_store, folder):
    return trained(tiled_store, folder, "layer1")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    paths = []
    for number, size in enumerate(SIZES):
        paths.append(tmp_path / "photos" / f"p{number}.png")
        Image.fromarray(forged_picture(number, *size)[0]).save(paths[-1])
    return paths


@pytest.fixture
def forwards(monkeypatch):
    """Number of images in each batch that goes through a backbone."""
    counts = []
    features = NetworkBackbone.features

    def counted(self, images, layers):
        counts.append(len(images))
        return features(self, images, layers)

    monkeypatch.setattr(NetworkBackbone, "features", counted)
    return counts


def logits(probability):
    return np.log(probability / (1 - probability))


def test_maps_of_many_images_are_those_of_each_alone(runs, photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    found = list(dp.predict_maps(runs[0], [*photos, broken], device="cpu"))
    alone = runs[0].predictor(device="cpu")
    for image, path in zip(found, photos, strict=False):
        assert image.path == path
        np.testing.assert_allclose(image.map, alone(path), atol=1e-6)
        assert image.score == pytest.approx(image.map.mean(), abs=1e-6)
    assert found[-1].map is None
    assert found[-1].reason == "empty file, zero bytes; an image was expected"


def test_several_runs_give_the_mean_of_their_logits(runs, photos, tmp_path, forwards):
    found = dp.predict(runs, photos, out=tmp_path / "out", save=["map"], each=True, device="cpu")
    assert forwards == [len(photos)], "each image goes once through the backbone of both runs"
    assert found.failed == []
    for row in found.rows:
        with np.load(tmp_path / "out" / row.each) as saved:
            assert saved["runs"].tolist() == [run.name for run in runs]
            each = saved["maps"].astype(np.float64)
        with np.load(tmp_path / "out" / row.map) as saved:
            np.testing.assert_allclose(logits(saved["map"]), logits(each).mean(0), atol=1e-4)
        for run, own in zip(runs, each, strict=True):
            (alone,) = dp.predict_maps(run, [row.image], device="cpu")
            np.testing.assert_allclose(own, alone.small, atol=1e-6)


@pytest.mark.parametrize("min_region", [0.0, 0.01, 0.1, "valid"])
def test_a_mask_without_small_regions(runs, photos, tmp_path, monkeypatch, min_region):
    monkeypatch.setattr("declip_pipeline.prediction.files._STRIP_ROWS", 37)
    # Two runs with 2% and 6%: 4% for their mean.
    monkeypatch.setattr(
        Run, "min_region", property(lambda run: 0.02 if "layer1" in run.name else 0.06)
    )
    own = {"threshold": 0.52, "device": "cpu"}
    plain = dp.predict(runs, photos, out=tmp_path / "plain", **own)
    found = dp.predict(runs, photos, out=tmp_path / "out", min_region=min_region, **own)
    share = 0.04 if min_region == "valid" else min_region
    changed = 0
    for one, other in zip(plain.rows, found.rows, strict=True):
        before, after = (
            np.asarray(Image.open(tmp_path / name / f"{Path(one.image).stem}_mask.png")) == 255
            for name in ("plain", "out")
        )
        assert np.array_equal(after, without_small_regions(before, share))
        assert other.fake_share == pytest.approx(after.mean())
        assert (one.score, one.smallest_region) == (other.score, other.smallest_region)
        changed += int((before != after).any())
    assert changed == 0 if not min_region else changed > 0


def test_the_threshold_of_several_runs_is_the_mean_of_theirs(runs, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Run, "valid_threshold", property(lambda run: 0.14 if "layer1" in run.name else 0.88)
    )
    threshold = dp.Ensemble(runs).valid_threshold
    assert threshold == pytest.approx(0.522, abs=1e-3), "not 0.51, the mean of the probabilities"
    for name, given in (("named", threshold), ("valid", "valid"), ("half", 0.5)):
        dp.predict(runs, photos, out=tmp_path / name, threshold=given, device="cpu")
    masks = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*_mask.png")}
        for name in ("named", "valid", "half")
    ]
    assert masks[0] == masks[1] and masks[0] != masks[2]
    monkeypatch.setattr(
        Run, "valid_threshold", property(lambda run: None if "layer1" in run.name else 0.88)
    )
    assert dp.Ensemble(runs).valid_threshold is None
    with pytest.raises(InputError, match="layer1.* has no threshold from its split valid"):
        dp.predict(runs, photos, out=tmp_path / "out", threshold="valid", device="cpu")
    assert not (tmp_path / "out").exists()


def test_another_minimum_size_is_another_prediction(runs, photos, tmp_path):
    own = {"out": tmp_path / "out", "device": "cpu"}
    dp.predict(runs[0], photos, min_region=0.02, **own)
    with pytest.raises(OutputExistsError, match="another `min_region`, 0.02 instead of 0; pass"):
        dp.predict(runs[0], photos, **own)
    with pytest.raises(OutputExistsError, match="another `min_region`, 0.02 instead of 0.03; pass"):
        dp.predict(runs[0], photos, min_region=0.03, **own)


def test_runs_without_a_minimum_size_are_named(tiled_run, photos, tmp_path):
    with pytest.raises(
        InputError, match="has no minimum size of regions from its split valid: runs of"
    ):
        dp.predict(tiled_run, photos, out=tmp_path / "out", min_region="valid", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_choice_of_files_is_kept_to(runs, photos, tmp_path):
    out = tmp_path / "out"
    dp.predict(runs[0], photos, out=out, save=["map-full"], device="cpu")
    assert sorted(file.suffix for file in out.iterdir()) == [".csv", ".jsonl", *[".png"] * 3]
    with pytest.raises(OutputExistsError, match="another `save`, map-full instead of mask; pass"):
        dp.predict(runs[0], photos, out=out, save=["mask"], device="cpu")
    (out / "p0_mask.png").write_text("mine")
    with pytest.raises(OutputExistsError, match="p0_mask.png is in the way"):
        dp.predict(runs[0], photos, out=out, save=["mask"], overwrite=True, device="cpu")
    (out / "p0_mask.png").unlink()
    dp.predict(runs[0], photos, out=out, save=["mask"], overwrite=True, device="cpu")
    assert not list(out.glob("*map-full*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save": []}, "`save` is empty; expected some of mask, map, map-full, overlay"),
        ({"threshold": float("nan")}, "`threshold` is nan; expected a probability"),
        ({"min_region": 1.0}, "`min_region` is 1.0; expected a share of the image's pixels"),
        ({"min_region": "some"}, "`min_region` is 'some'; expected a share of the image's pixels"),
        ({"batch_size": 0}, "`batch_size` is 0; expected at least 1"),
    ],
)
def test_bad_arguments_are_refused(runs, photos, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        dp.predict(runs[0], photos, out=tmp_path / "out", device="cpu", **arguments)
    with pytest.raises(InputError, match="no run was given"):
        dp.predict([], photos, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_on_tiles_and_on_whole_images_are_refused_together(runs, tiled_run, photos, tmp_path):
    with pytest.raises(IdentityMismatchError, match="tiles differs: .* has 'whole images', ano"):
        dp.predict([runs[0], tiled_run], photos, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_run_on_tiles_predicts_windows_at_native_resolution(
    tiled_run, tiled_store, tile_backbone, photos, tmp_path
):
    found = list(dp.predict_maps(tiled_run, photos, device="cpu", batch_size=4))
    decoder = tiled_run.decoder()
    tiling = tiled_store.tiling
    for image, size in zip(found, SIZES, strict=True):
        pixels = np.asarray(Image.open(image.path))
        windows = tiling.windows(*size)
        crops = [resize_image(w.of(pixels), tiling.size, tiling.size) for w in windows]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
            maps = torch.sigmoid(decoder(tile_backbone.features(batch, ["layer1"])["layer1"]))
        expected = joined_map(windows, maps.numpy(), image_size=size)
        np.testing.assert_allclose(image.map, expected, atol=1e-5)
        np.testing.assert_allclose(tiled_run.predictor(device="cpu")(pixels), expected, atol=1e-5)
    rows = dp.predict(tiled_run, photos, out=tmp_path / "out", device="cpu").rows
    # Tiles are not shrunk: a position is as large in all images, or in a side that a tile exceeds.
    grid = tiled_run.decoder().input_shapes[0]
    assert [row.smallest_region for row in rows] == [
        f"{-(-min(width, tiling.size) // grid.width)}x{-(-min(height, tiling.size) // grid.height)}"
        for height, width in SIZES
    ]
    assert {row.verdict for row in rows} == {""}


def test_whole_views_beside_tiles_are_computed_once_an_image(
    tiled_store, tiny_store, tile_backbone, tiny_backbone, folder, photos, forwards
):
    run = dp.train(
        tiled_store,
        layer="layer1",
        beside=[(tiny_store, "layer2")],
        decoder="linear",
        epochs=1,
        batch_size=4,
        runs=folder,
    )
    parts = run.best_decoder()[1]["parts"]
    beside = [part for part in parts if "windows" in part]
    assert beside and len(beside) < len(parts)
    forwards.clear()
    (found,) = dp.predict_maps(run, photos[1:2], device="cpu", batch_size=64)
    assert sorted(forwards) == [1, tiled_store.tiling.count(*SIZES[1])]
    pixels = np.asarray(Image.open(photos[1]))
    windows = tiled_store.tiling.windows(*SIZES[1])
    shares = torch.from_numpy(window_shares(np.asarray(windows), np.full((1, 2), SIZES[1])))
    inputs = []
    for part in parts:
        layer = part["layer"]
        if "windows" in part:
            side = tiny_backbone.preprocessing.height
            batch = torch.from_numpy(resize_image(pixels, side, side)[None])
            whole = tiny_backbone.features(batch.permute(0, 3, 1, 2), [layer])[layer].half().float()
            shape = tiny_backbone.layers[layer]
            inputs.append(features_at_windows(whole.repeat(len(windows), 1, 1), shape, shares))
        else:
            batch = torch.from_numpy(np.stack([w.of(pixels) for w in windows]))
            inputs.append(tile_backbone.features(batch.permute(0, 3, 1, 2), [layer])[layer])
    with torch.inference_mode():
        maps = torch.sigmoid(run.decoder()(*inputs))
    expected = joined_map(windows, maps.numpy(), image_size=SIZES[1])
    np.testing.assert_allclose(found.map, expected, atol=1e-5)


def test_a_tiling_of_another_size_is_refused(tiled_run, tile_backbone):
    decoder, features = tiled_run.best_decoder()
    with pytest.raises(IdentityMismatchError, match="tiles differs: the run was trained on 56"):
        dp.Predictor([tile_backbone], decoder, features, dtypes=["float32"], tiles=Tiling(64, 0.25))
