from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.images import resize
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.resize import resize_image, thumbnail

GOLDEN = Path(__file__).parents[1] / "golden"
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def preprocessed(name: str, interpolation: str) -> np.ndarray:
    image = resize_image(decode_image(GOLDEN / "images" / name), 224, 224, interpolation)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    return ((image.astype(np.float32) / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


def test_reproduces_the_published_preprocessing() -> None:
    """`preprocessed` is what the authors' code feeds the network (golden/README, 1e-6)."""
    golden = np.load(GOLDEN / "backbones.npz")
    assert golden["names"].tolist() == ["chelsea.png", "coffee.jpg"]
    for name, expected in zip(golden["names"], golden["preprocessed"], strict=True):
        np.testing.assert_allclose(preprocessed(name, "bilinear"), expected, rtol=0, atol=1e-6)
        assert np.abs(preprocessed(name, "bicubic") - expected).max() > 0.1


def test_height_comes_before_width() -> None:
    image = np.zeros((30, 60, 3), np.uint8)
    image[:15] = 200
    resized = resize_image(image, 40, 20)
    assert resized.shape == (40, 20, 3)
    assert resized[:18].min() == 200
    assert resized[22:].max() == 0


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = resize_image(stripes, 16, 16)[:, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() <= 1


def test_an_unknown_interpolation_lists_the_known_ones() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    message = "unknown interpolation 'bilinar'; did you mean 'bilinear'\\? known: bilinear, bicubic"
    with pytest.raises(UnknownNameError, match=message):
        resize_image(image, 8, 8, "bilinar")


def test_thumbnail_is_square_and_straight() -> None:
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 300:] = 255
    small = thumbnail(image, 32)
    assert small.shape == (32, 32, 3)
    assert small[:, :23].max() == 0
    assert small[:, 25:].min() == 255
    assert thumbnail(image).shape == (128, 128, 3)


@pytest.mark.parametrize("size", [(300, 200), (5, 7), (16, 16), (1, 3)])
@pytest.mark.parametrize("pixels_at_once", [2**20, 700])
def test_strips_of_a_map_are_the_map_resized(size, pixels_at_once, monkeypatch):
    monkeypatch.setattr(resize, "_PIXELS_AT_ONCE", pixels_at_once)
    values = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear")[0, 0]
    strips = list(resize.resized_strips(values, *size))
    assert all(strip.size <= max(pixels_at_once, size[1]) for strip in strips)
    found = np.concatenate(strips)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
