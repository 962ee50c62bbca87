"""Maps that other tools saved: every kind of file and of values, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import ImageError
from declip_pipeline.images.maps import read_map

SIZE = (20, 30)


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).random(SIZE).astype(np.float32)


def saved(path, array):
    """Save an array as the suffix says."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, map=array)
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "dtype", "white"),
    [
        ("a.png", np.uint8, 255),
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint8, 255),
        ("a.TIF", np.uint16, 65535),
        ("a.tiff", np.float32, 1),
        ("a.npy", np.uint8, 255),
        ("a.npy", np.uint16, 65535),
        ("a.npy", np.float16, 1),
        ("a.npy", np.float64, 1),
        ("a.npz", np.float32, 1),
    ],
)
def test_values_are_probabilities_whatever_the_file(tmp_path, probabilities, name, dtype, white):
    is_float = np.dtype(dtype).kind == "f"
    stored = (probabilities if is_float else np.rint(probabilities * white)).astype(dtype)
    found = read_map(saved(tmp_path / name, stored), SIZE)
    assert found.values.dtype == np.float32 and found.values.shape == SIZE
    np.testing.assert_allclose(found.values, stored.astype(np.float64) / white, atol=1e-6)
    assert (found.lowest, found.highest) == (stored.min(), stored.max())
    assert found.is_integer == (not is_float) and not found.is_constant


def test_axes_of_length_one_are_dropped(tmp_path, probabilities):
    for shape in ((1, *SIZE), (*SIZE, 1), (1, 1, *SIZE)):
        found = read_map(saved(tmp_path / "a.npy", probabilities.reshape(shape)), SIZE)
        np.testing.assert_array_equal(found.values, probabilities)


def test_logits_become_probabilities(tmp_path):
    logits = np.linspace(-200, 200, 600).reshape(SIZE)
    found = read_map(saved(tmp_path / "a.npy", logits), SIZE, maps_are="logits")
    expected = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.values.min() >= 0 and found.values.max() == 1
    infinite = np.where(logits > 0, np.inf, -np.inf)
    found = read_map(saved(tmp_path / "a.npy", infinite), SIZE, maps_are="logits")
    np.testing.assert_allclose(found.values, logits > 0, atol=1e-6)


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz"])
def test_masks_of_two_values(tmp_path, probabilities, name, white):
    mask = probabilities > 0.7
    stored = mask.astype(np.uint8) * np.uint8(white)
    found = read_map(saved(tmp_path / name, stored), SIZE, maps_are="masks")
    np.testing.assert_array_equal(found.values, mask)
    with pytest.raises(ImageError, match="a mask of two values expected"):
        grey = np.full(SIZE, 90, np.uint8)
        read_map(saved(tmp_path / name, grey), SIZE, maps_are="masks")


def test_masks_of_truth_values_and_of_other_integers(tmp_path, probabilities):
    mask = probabilities > 0.7
    for stored in (mask, mask.astype(np.int64)):
        found = read_map(saved(tmp_path / "a.npy", stored), SIZE)
        np.testing.assert_array_equal(found.values, mask)
        assert not found.is_integer
    with pytest.raises(ImageError, match="values from 0 to 255 of type int64; integers of 8 or 16"):
        read_map(saved(tmp_path / "a.npy", mask.astype(np.int64) * 255), SIZE)


def test_a_map_of_one_value_is_read(tmp_path):
    assert read_map(saved(tmp_path / "a.npy", np.full(SIZE, 0.5)), SIZE).is_constant


def test_rounding_errors_of_interpolation_are_cut(tmp_path):
    values = np.full(SIZE, 1 + 1e-6)
    values[0] = -1e-6
    found = read_map(saved(tmp_path / "a.npy", values), SIZE)
    assert (found.values.min(), found.values.max()) == (0, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(SIZE, np.nan), "holds NaN in 600 of 600 pixels; numbers expected"),
        (np.full(SIZE, 3.5), r"holds values from 3.5 to 3.5; .*`maps_are=\"logits\"`"),
        (np.zeros((2, *SIZE)), r"shape \(2, 20, 30\); one map \(height, width\) expected"),
        (np.zeros(600), r"shape \(600,\); one map"),
        (np.zeros((30, 20)), "has 20x30 pixels, its image 30x20; .* `resize_maps=True`"),
        (np.zeros((0, 0)), "has 0x0 pixels"),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_what_is_no_map_is_refused(tmp_path, name, array, message):
    with pytest.raises(ImageError, match=message):
        read_map(saved(tmp_path / name, array), SIZE)


def test_integers_are_no_logits(tmp_path):
    with pytest.raises(ImageError, match="holds integers, values from 0 to 0; logits are floating"):
        read_map(saved(tmp_path / "a.png", np.zeros(SIZE, np.uint8)), SIZE, maps_are="logits")


@pytest.mark.parametrize(
    ("mode", "bands"), [("RGB", r"R\+G\+B"), ("LA", r"L\+A"), ("RGBA", ""), ("P", "P")]
)
def test_images_of_several_channels_are_refused(tmp_path, mode, bands):
    Image.new(mode, SIZE[::-1]).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"has the channels {bands}.*a map has one grey channel"):
        read_map(tmp_path / "a.png", SIZE)


def test_another_size_is_read_where_it_is_asked_for(tmp_path):
    for name in ("a.png", "a.npy"):
        path = saved(tmp_path / name, np.zeros((16, 16), np.uint8))
        with pytest.raises(ImageError, match="has 16x16 pixels, its image 30x20"):
            read_map(path, SIZE)
        assert read_map(path, SIZE, resize=True).values.shape == (16, 16)
        with pytest.raises(ImageError, match="1 to 0.0001 megapixels are read"):
            read_map(path, SIZE, resize=True, max_megapixels=0.0001)


def test_the_size_is_checked_before_the_values_are_read(tmp_path):
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, "w+", np.float64, (100_000, 100_000)).flush()
    with pytest.raises(ImageError, match="has 100000x100000 pixels"):
        read_map(path, SIZE, resize=True)


def test_arrays_of_an_archive_are_named_or_found(tmp_path, probabilities):
    path = tmp_path / "a.npz"
    np.savez(path, prediction=probabilities, size=np.array(SIZE))
    np.testing.assert_array_equal(read_map(path, SIZE).values, probabilities)
    np.savez(path, a=probabilities, b=probabilities / 2)
    with pytest.raises(
        ImageError, match=r"holds a \(20, 30\), b \(20, 30\); name the map with `maps_key`"
    ):
        read_map(path, SIZE)
    np.testing.assert_array_equal(read_map(path, SIZE, key="b").values, probabilities / 2)
    with pytest.raises(ImageError, match="holds a .*; no array is called c"):
        read_map(path, SIZE, key="c")
    np.savez(path)
    with pytest.raises(ImageError, match="holds no array; name the map"):
        read_map(path, SIZE)


def test_the_score_of_a_file_comes_with_the_map(tmp_path, probabilities):
    """As TruFor writes it."""
    path = tmp_path / "a.jpg.npz"
    content = {"map": probabilities, "conf": probabilities, "imgsize": SIZE, "score": 0.75}
    np.savez(path, **content)
    found = read_map(path, SIZE)
    assert found.score == 0.75
    np.testing.assert_array_equal(found.values, probabilities)
    for no_score in (3.0, np.zeros(SIZE)):
        np.savez(path, **(content | {"score": no_score}))
        assert read_map(path, SIZE).score is None
