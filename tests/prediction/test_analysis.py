"""Analysis of one image by several runs: the maps, files and shares that `predict` gives."""

import csv
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_dataset import forged_picture

import declip_pipeline as dp
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.prediction.analysis import Analyzer, Finding, RealShare
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.predictor import PredictedMap
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

LINEAR = Recipe("linear", epochs=2, batch_size=4, learning_rate=0.01, initialization="pytorch")


def trained(store, folder, **changes):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer="layer1",
        recipe=replace(LINEAR, **changes),
    )


@pytest.fixture(scope="module")
def runs(mixed_store, tiled_store, tmp_path_factory):
    """A run that never saw a real image, one that did, and one on tiles."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        trained(mixed_store, folder),
        trained(mixed_store, folder, with_real=0.3),
        trained(tiled_store, folder),
    ]


@pytest.fixture(scope="module")
def analyzer(runs):
    return Analyzer(runs, device="cpu")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a photo.png"
    Image.fromarray(forged_picture(5, 150, 210)[0]).save(path)
    return path


def test_each_run_finds_what_predict_writes(analyzer, runs, photo, tmp_path):
    told = []
    image = analyzer(photo, photo.name, progress=lambda done, total: told.append((done, total)))
    windows = 1 + 1 + len(analyzer._predictors[2].windows(150, 210))
    assert told[-1] == (windows, windows) and sorted(told) == told
    with zipfile.ZipFile(io.BytesIO(image.archive(0.3))) as archive:
        assert archive.testzip() is None
        for run in runs:
            out = tmp_path / "out" / run.name
            found = dp.predict(run, photo, out=out, threshold=0.3, device="cpu")
            (row,) = found.rows
            (made,) = csv.DictReader(
                io.StringIO(archive.read(f"{run.name}/predictions.csv").decode())
            )
            assert made["image"] == "a photo.png"
            assert float(made["score"]) == pytest.approx(row.score, abs=1e-6)
            assert float(made["fake_share"]) == row.fake_share
            assert (int(made["height"]), int(made["width"])) == (150, 210)
            own = archive.read(f"{run.name}/{made['mask']}")
            assert own == (out / row.mask).read_bytes()
            assert archive.read(f"{run.name}/{made['overlay']}") == (out / row.overlay).read_bytes()
            own_map = io.BytesIO(archive.read(f"{run.name}/{made['map']}"))
            with np.load(own_map) as mine, np.load(out / row.map) as theirs:
                np.testing.assert_allclose(mine["map"], theirs["map"], atol=1e-6)


def test_the_share_moves_with_the_threshold_and_nothing_is_computed(analyzer, photo, monkeypatch):
    image = analyzer(photo, photo.name)
    monkeypatch.setattr("declip_pipeline.training.predictor.Predictor.compute", None)
    for finding in image.findings:
        for threshold in (0.2, 0.5, 0.7):
            expected = float((finding.maps.full > threshold).mean())
            assert finding.fake_share(threshold) == pytest.approx(expected)
            assert finding.shown_mask(threshold).mean() == pytest.approx(255 * expected)
        assert image.shown_overlay(finding).shape == (150, 210, 3)


def test_what_is_shown_of_a_large_image_is_small(monkeypatch, analyzer, photo):
    monkeypatch.setattr("declip_pipeline.prediction.analysis.SHOWN_SIDE", 42)
    image = analyzer(photo, photo.name)
    assert image.shown.shape == (30, 42, 3) and image.size == (150, 210)
    finding = image.findings[0]
    assert finding.shown_map.shape == finding.shown_mask(0.5).shape == (30, 42)
    assert finding.shown_map.mean() == pytest.approx(finding.maps.full.mean(), abs=0.01)


class MadeRun:
    """A run whose real images of `valid` have given shares, at all thresholds below 0.5."""

    def __init__(self, shares):
        self._shares = shares

    def valid_real_shares(self):
        if self._shares is None:
            return None
        found = np.zeros((len(self._shares), 99), np.float32)
        found[:, :49] = np.array(self._shares)[:, None]
        return found


def finding(shares, full=((0.9, 0.1),)):
    maps = PredictedMap(np.zeros((2, 2)), np.array(full, np.float32), 0.5)
    return Finding(MadeRun(shares), maps, (1, 1), is_shrunk=False)


def test_real_images_with_as_many_fake_pixels_are_counted():
    one = finding([0, 0, 0.02, 0.1, 0.4])
    assert one.real_share(0.49, 0.1) == RealShare(2, 5)
    assert one.real_share(0.49, 0.0) == RealShare(3, 5), "those with at least a pixel"
    assert one.real_share(0.49, 0.5) == RealShare(0, 5)
    # 0.495 is between two thresholds of the record: that below it counts, 0.5 is the next one.
    assert one.real_share(0.495, 0.1) == RealShare(2, 5)
    assert one.real_share(0.5, 0.0) == RealShare(0, 5)
    assert finding(None).real_share(0.3, 0.1) is None


def test_a_run_knows_its_shares_of_real_images_where_valid_has_some(analyzer, photo):
    without, with_real, tiled = analyzer(photo, photo.name).findings
    assert without.real_share(0.01, 0.0).total == with_real.real_share(0.01, 0.0).total == 6
    assert tiled.real_share(0.5, 0.1) is None


def test_an_image_with_too_long_a_side_is_refused_from_its_header(analyzer, tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((20, 20_000), np.uint8)).save(path)
    with pytest.raises(ImageError) as caught:
        analyzer(path, path.name)
    assert str(caught.value) == (
        "20000x20 pixels; at most 16384 a side can be shown, shrink it or cut a part out"
    )


def test_an_image_of_too_many_pixels_is_refused(runs, photo):
    with pytest.raises(ImageError, match=r"210x150 pixels = 0.0315 megapixels; at most 0.01"):
        Analyzer(runs[0], device="cpu", max_megapixels=0.01)(photo, photo.name)


def test_runs_are_opened_once_each(runs, photo):
    again = Analyzer([runs[0], runs[0].path, runs[1]], device="cpu")
    assert [run.path for run in again.runs] == [runs[0].path, runs[1].path]
    assert again.repeated == [runs[0].path]
    first, second = again._predictors
    assert next(iter(first._layers_of()))[0] is next(iter(second._layers_of()))[0]
    with pytest.raises(InputError, match="no run was given"):
        Analyzer([])
