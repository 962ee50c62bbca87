import io

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.images.tiles import Tiling, Window, joined_map
from declip_pipeline.prediction import files as module
from declip_pipeline.prediction.files import chosen_kinds, predicted_files
from declip_pipeline.training.image_maps import ImageMaps, WindowMaps

KINDS = ("mask", "map", "map-full", "overlay", "each")


def maps_of(size, windows, *, runs=2, side=8):
    random = np.random.default_rng(0)
    each = random.random((runs, len(windows), side, side), dtype=np.float32)
    maps = WindowMaps(each.mean(0), each, None)
    parts = [maps.take(slice(first, first + 3)) for first in range(0, len(windows), 3)]
    return maps, ImageMaps(size, windows, parts)


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("size", [(90, 120), (16, 700)])
@pytest.mark.parametrize("tiling", [None, Tiling(40, 0.25)])
def test_all_kinds_are_of_one_map(size, tiling):
    windows = [Window(0, 0, *size)] if tiling is None else tiling.windows(*size)
    made, maps = maps_of(size, windows)
    grey = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    found = predicted_files(maps, grey, KINDS, 0.45, run_names=["one", "two"])
    assert list(found.content) == list(KINDS)
    expected = joined_map(windows, list(made.small), image_size=size)
    mask = opened(found.content["mask"])
    clear = np.abs(expected - 0.45) > 1e-5
    np.testing.assert_array_equal(mask[clear], np.where(expected > 0.45, 255, 0)[clear])
    assert found.fake_share == pytest.approx((mask == 255).mean())
    assert found.score == pytest.approx(expected.mean(), abs=1e-6)
    full = opened(found.content["map-full"])
    np.testing.assert_allclose(full / 65535, expected, atol=1e-5)
    assert opened(found.content["overlay"]).shape == (*size, 3)
    with np.load(io.BytesIO(found.content["map"])) as saved:
        assert saved["imgsize"].tolist() == list(size)
        assert float(saved["score"]) == found.score
        small = saved["map"]
    assert small.dtype == np.float32
    with np.load(io.BytesIO(found.content["each"])) as saved:
        assert saved["runs"].tolist() == ["one", "two"]
        np.testing.assert_allclose(saved["maps"].mean(0), small, atol=1e-6)
    if tiling is None:
        np.testing.assert_array_equal(small, made.small[0])
    else:
        assert small.shape == (round(size[0] * 8 / windows[0].height), round(size[1] * 8 / 40))


def test_a_joined_map_has_a_million_values_at_most(monkeypatch):
    windows = Tiling(20, 0.25).windows(200, 400)
    _, maps = maps_of((200, 400), windows, side=64)
    for _ in maps.strips():
        pass
    assert maps.small.shape == (640, 1280)
    monkeypatch.setattr("declip_pipeline.training.image_maps._MOST_SMALL_PIXELS", 5_000)
    _, maps = maps_of((200, 400), windows, side=64)
    for _ in maps.strips():
        pass
    assert maps.small.shape == (50, 100)


def test_an_overlay_is_grey_where_nothing_is_found_and_shrunk_to_what_a_jpeg_holds(monkeypatch):
    size = (64, 200)
    zeros = np.zeros((1, 1, 4, 4), np.float32)
    grey = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (64, 1))

    def overlay():
        maps = ImageMaps(size, [Window(0, 0, *size)], [WindowMaps(zeros[0], zeros, None)])
        return opened(predicted_files(maps, grey, ["overlay"], 0.5).content["overlay"])

    shown = overlay().astype(int)
    assert np.abs(shown - grey[..., None]).max() <= 4
    monkeypatch.setattr(module, "_LONGEST_JPEG", 100)
    assert overlay().shape == (32, 100, 3)


def test_kinds_are_chosen_by_name():
    assert chosen_kinds(["overlay", "mask", "mask"]) == ["mask", "overlay"]
    assert chosen_kinds(["map-full"], each=True) == ["map-full", "each"]
    with pytest.raises(UnknownNameError, match="did you mean 'overlay'"):
        chosen_kinds(["overlays"])
