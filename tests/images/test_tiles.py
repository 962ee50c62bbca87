import numpy as np
import pytest
import torch

from declip_pipeline.decoders.decoder import resized_maps
from declip_pipeline.errors import InputError
from declip_pipeline.images.tiles import MapJoiner, Tiling, Window, joined_map, joined_size

SIZES = [(100, 130), (64, 64), (65, 300), (40, 200), (30, 20), (129, 64)]
TILINGS = [Tiling(64), Tiling(64, 0), Tiling(64, 0.5), Tiling(64, 0.8)]


def covered(tiling: Tiling, height: int, width: int) -> np.ndarray:
    times = np.zeros((height, width), int)
    for window in tiling.windows(height, width):
        view = window.of(times)
        assert view.shape == (window.height, window.width)
        view += 1
    return times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("448", Tiling(448, 0.25)),
        ("448:0.25", Tiling(448, 0.25)),
        ("224:0", Tiling(224, 0.0)),
        (224, Tiling(224)),
        (Tiling(32, 0.1), Tiling(32, 0.1)),
    ],
)
def test_a_size_and_an_overlap_are_read(text, expected):
    assert Tiling.parse(text) == expected


@pytest.mark.parametrize("tiling", [*TILINGS, Tiling(1000, 1 / 3)])
def test_the_text_of_a_tiling_is_read_back(tiling):
    assert Tiling.parse(str(tiling)) == tiling


@pytest.mark.parametrize(
    "text",
    [
        "",
        "448:",
        "448:1",
        "448:-0.1",
        "448:1.5",
        "-448",
        "15",
        "448x224",
        "a",
        "4:0.1:2",
        "448:nan",
        "٤٤٨",
        True,
        "9" * 400,
    ],
)
def test_what_is_no_tiling_is_refused(text):
    with pytest.raises(InputError, match=r"^`tiles` is .*; expected SIZE or SIZE:OVERLAP, .*"):
        Tiling.parse(text)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiling", TILINGS)
def test_windows_cover_every_pixel_and_end_at_the_border(tiling, size):
    height, width = size
    windows = tiling.windows(height, width)
    assert covered(tiling, height, width).min() >= 1
    assert len(windows) == len(set(windows)) == tiling.count(height, width)
    assert {one.height for one in windows} == {min(height, 64)}
    assert {one.width for one in windows} == {min(width, 64)}
    assert max(one.top + one.height for one in windows) == height
    assert max(one.left + one.width for one in windows) == width


def test_neighbours_have_at_least_the_overlap_in_common_and_are_spread_evenly():
    lefts = [one.left for one in Tiling(100, 0.25).windows(100, 1030)]
    steps = np.diff(lefts)
    assert steps.max() <= 75
    assert steps.max() - steps.min() <= 1
    assert lefts[0] == 0
    assert lefts[-1] == 930


def test_tiles_without_overlap_of_a_multiple_tile_it_exactly():
    assert covered(Tiling(50, 0), 150, 100).max() == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("scale", [1, 0.5, 0.37, 1.3])
def test_weights_sum_to_one_so_that_constant_maps_stay_constant(tiling, size, scale):
    windows = tiling.windows(*size)
    target = tuple(max(1, round(side * scale)) for side in size)
    maps = [np.full((16, 16), 0.3, np.float32)] * len(windows)
    joined = joined_map(windows, maps, image_size=size, size=target)
    assert joined.shape == target
    np.testing.assert_allclose(joined, np.float32(0.3), rtol=1e-6)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("size", SIZES)
def test_crops_of_a_smooth_map_are_joined_to_that_map(tiling, size):
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    whole = 0.5 + 0.25 * np.sin(rows / 20) + 0.25 * np.cos(columns / 15)
    windows = tiling.windows(*size)
    joined = joined_map(windows, [one.of(whole) for one in windows], image_size=size)
    np.testing.assert_allclose(joined, whole, atol=1e-6)


def test_coarse_maps_of_a_linear_ramp_are_joined_to_it_inside():
    size = (96, 200)
    ramp = np.broadcast_to((np.arange(200, dtype=np.float32) + 0.5) / 200, size)
    windows = Tiling(64).windows(*size)
    maps = [one.of(ramp).reshape(16, 4, 16, 4).mean(axis=(1, 3)) for one in windows]
    joined = joined_map(windows, maps, image_size=size)
    # Of the two pixels next to the image's border, a map of 4 pixels a value knows no more.
    np.testing.assert_allclose(joined[:, 2:-2], ramp[:, 2:-2], atol=2e-3)


@pytest.mark.parametrize("size", [(30, 20), (64, 64), (64, 20)])
def test_a_single_window_gives_its_own_map_bit_for_bit(size):
    own = np.random.default_rng(0).random((256, 256), np.float32)
    windows = Tiling(64).windows(*size)
    assert len(windows) == 1
    joined = joined_map(windows, [own], image_size=size, size=(256, 256))
    np.testing.assert_array_equal(joined, own)
    assert joined_size(windows, size, own.shape) == own.shape


def test_a_single_window_is_resized_as_whole_images_are():
    own = np.random.default_rng(0).random((32, 32), np.float32)
    windows = Tiling(512).windows(300, 411)
    joined = joined_map(windows, [own], image_size=(300, 411))
    expected = resized_maps(torch.from_numpy(own[None]), 300, 411)[0].numpy()
    # Torch computes positions in float32.
    np.testing.assert_allclose(joined, expected, atol=1e-5)


def test_where_no_other_window_overlaps_a_map_is_taken_as_it_is():
    windows = Tiling(64, 0).windows(64, 128)
    maps = list(np.random.default_rng(0).random((2, 64, 64), np.float32))
    joined = joined_map(windows, maps, image_size=(64, 128))
    np.testing.assert_array_equal(joined, np.concatenate(maps, axis=1))


def test_one_window_passes_smoothly_into_the_next():
    windows = Tiling(64, 0.5).windows(64, 96)
    joined = joined_map(windows, [np.zeros((8, 8)), np.ones((8, 8))], image_size=(64, 96))
    assert (joined[:, :32] == 0).all()
    assert (joined[:, 64:] == 1).all()
    steps = np.diff(joined[0, 31:65])
    assert (steps >= 0).all()
    assert steps.max() < 0.06


def test_strips_hold_no_more_rows_than_a_window_has():
    size, tiling = (1000, 90), Tiling(64)
    windows = tiling.windows(*size)
    joiner = MapJoiner(windows, image_size=size)
    maps = np.random.default_rng(0).random((len(windows), 16, 16), np.float32)
    strips = [joiner.add(one) for one in maps]
    assert max(map(len, strips)) <= 64
    whole = joined_map(windows, maps, image_size=size)
    np.testing.assert_array_equal(np.concatenate(strips), whole)


def test_a_joined_map_is_as_fine_as_the_windows_maps():
    windows = Tiling(64).windows(640, 320)
    assert joined_size(windows, (640, 320), (16, 32)) == (160, 160)


def test_windows_of_a_part_of_an_image_are_refused():
    with pytest.raises(InputError, match="3 windows cover no whole grid of 2 by 2"):
        MapJoiner(Tiling(64).windows(100, 100)[:3], image_size=(100, 100))


def test_a_window_shows_its_part_of_an_image():
    image = np.arange(60).reshape(6, 10)
    np.testing.assert_array_equal(Window(1, 2, 3, 4).of(image), image[1:4, 2:6])
