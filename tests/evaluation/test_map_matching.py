"""Maps and images belong together by name, and what is ambiguous is an error."""

import pytest

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.map_matching import match_maps


def samples_of(*images):
    return Samples.from_columns(list(images), generator="real", source="set", label=0)


def matched(files, *images, known=()):
    images = samples_of(*images)
    return match_maps(files, images, samples_of(*known) if known else images)


def test_a_map_has_the_name_or_the_path_of_its_image():
    found = matched(["b.png", "deep/down/a.npy", "test/c.jpg.npz"], "a.jpg", "b.png", "test/c.jpg")
    assert found.map_of == {"a": "deep/down/a.npy", "b": "b.png", "test/c": "test/c.jpg.npz"}
    assert found.extra == ()


def test_order_plays_no_part():
    names = [f"{number:02}" for number in range(12)]
    found = matched(
        [f"{name}.png" for name in reversed(names[3:])], *(f"{name}.jpg" for name in names)
    )
    assert found.map_of == {name: f"{name}.png" for name in names[3:]}


def test_folders_tell_images_of_one_name_apart():
    images = ("fake/ldm/test/1.png", "fake/lama/test/1.png", "real/test/1.png")
    files = ["lama/test/1.png", "ldm/test/1.png", "real/test/1.png"]
    found = matched(files, *images)
    assert found.map_of == {
        "fake/lama/test/1": "lama/test/1.png",
        "fake/ldm/test/1": "ldm/test/1.png",
        "real/test/1": "real/test/1.png",
    }
    with pytest.raises(
        InputError, match="map 1.png may be of fake/ldm/test/1 or of fake/lama/test/1; lay the maps"
    ):
        matched(["1.png"], *images)
    # One of these alone is evaluated.
    found = match_maps(["1.png"], samples_of(images[0]), samples_of(*images))
    assert found.map_of == {"fake/ldm/test/1": "1.png"}


def test_two_maps_of_one_image_are_refused():
    with pytest.raises(
        InputError, match=r"two maps may be of the image a, a.npy and a.png; remove one"
    ):
        matched(["a.png", "a.npy"], "a.jpg")
    found = matched(["other/a.png", "test/a.png"], "test/a.jpg")
    assert found.map_of == {"test/a": "test/a.png"}
    assert found.extra == ("other/a.png",)


def test_whole_paths_come_before_names():
    images = ("ldm/images/1.png", "lama/images/1.png")
    files = ["ldm/images/1.npy", "lama/images/1.npy", "ldm/masks/1.npy"]
    found = matched(files, *images)
    assert found.map_of == {"ldm/images/1": files[0], "lama/images/1": files[1]}
    assert found.extra == ("ldm/masks/1.npy",)


def test_names_that_the_suffix_tells_apart():
    images = ("a.jpg", "a.png")
    found = matched(["a.jpg.npz", "a.png.npz"], *images)
    assert found.map_of == {"a.jpg": "a.jpg.npz", "a.png": "a.png.npz"}
    with pytest.raises(InputError, match="map a.tif may be of a.jpg or of a.png"):
        matched(["a.tif"], *images)


def test_maps_of_other_images_of_the_data_are_no_extra_ones():
    found = matched(["a.png", "b.png", "c.png"], "a.jpg", known=("a.jpg", "b.jpg"))
    assert found.map_of == {"a": "a.png"}
    assert found.extra == ("c.png",)


def test_a_map_of_an_image_that_is_not_evaluated_is_no_other_image_s():
    known = ("fake/ldm/1.png", "fake/lama/1.png", "fake/lama/2.png")
    found = matched(["fake/ldm/1.npy", "ldm/2.npy"], *known[1:], known=known)
    assert found.map_of == {"fake/lama/2": "ldm/2.npy"}
    found = matched(["ldm/1.npy", "lama/1.npy"], *known[1:], known=known)
    assert found.map_of == {"fake/lama/1": "lama/1.npy"}
    assert found.extra == ()
