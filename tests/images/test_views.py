"""Views change what they say, the same way every time, and refuse what they cannot do."""

import numpy as np
import pytest
from support.made_dataset import forged_picture

from declip_pipeline.errors import InputError
from declip_pipeline.images.views import View, parse_augmentation, parse_view, view_named

PICTURE, _ = forged_picture(3, 60, 80)
ONE, OTHER = "a" * 64, "b" * 64
NAMES = {
    "clean": "clean",
    "jpeg:70": "jpeg-70",
    "blur:1.0": "blur-1",
    "jitter:0.3": "jitter-0.3",
    "resize:0.5": "resize-0.5",
    "noise:5": "noise-5",
    "blur:1.5+jpeg:40": "blur-1.5+jpeg-40",
}


@pytest.mark.parametrize(("text", "name"), NAMES.items())
def test_a_view_has_a_name_and_gives_the_same_pixels_again(text, name):
    view = parse_view(text)
    assert view.name == name
    assert view_named(name) == view
    rendered = view.render(PICTURE, ONE)
    assert rendered.shape == PICTURE.shape
    assert rendered.dtype == np.uint8
    np.testing.assert_array_equal(parse_view(text).render(PICTURE, ONE), rendered)
    assert (rendered == PICTURE).all() == (text == "clean")


def difference(view: View) -> float:
    return float(np.abs(view.render(PICTURE, ONE).astype(int) - PICTURE).mean())


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        ("jpeg:90", "jpeg:20"),
        ("blur:0.5", "blur:3"),
        ("resize:0.8", "resize:0.2"),
        ("noise:2", "noise:20"),
    ],
)
def test_stronger_views_change_more(weaker, stronger):
    assert 0 < difference(parse_view(weaker)) < difference(parse_view(stronger))


def test_blur_takes_away_detail_and_noise_has_its_deviation():
    flat = np.full((50, 50, 3), 128, np.uint8)
    blurred = parse_view("blur:2").render(PICTURE, ONE).astype(int)
    assert (
        np.abs(np.diff(blurred, axis=1)).mean()
        < np.abs(np.diff(PICTURE.astype(int), axis=1)).mean()
    )
    assert parse_view("noise:5").render(flat, ONE).std() == pytest.approx(5, rel=0.05)


def test_random_views_differ_from_picture_to_picture_and_view_to_view():
    views = parse_augmentation("jpeg+blur+jitter:3")
    assert [view.name for view in views] == [f"jpeg+blur+jitter.random{n}" for n in range(3)]
    assert [view_named(view.name) for view in views] == views
    rendered = [view.render(PICTURE, content) for view in views for content in (ONE, OTHER)]
    for place, one in enumerate(rendered):
        for other in rendered[:place]:
            assert (one != other).any()
    np.testing.assert_array_equal(views[0].render(PICTURE, ONE), rendered[0])


def test_jitter_keeps_within_its_share():
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = [parse_view("jitter:0.3").render(grey, f"{n:064x}").mean() for n in range(200)]
    assert 68 <= min(values) < 80
    assert 120 < max(values) <= 132


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sepia:3", r"'sepia' is not known; known: clean, jpeg, blur"),
        ("jpeg", r"'jpeg' lacks its strength; write jpeg:NUMBER"),
        ("jpeg:", r"lacks its strength"),
        ("jpeg:70.5", r"expected a whole number from 1 to 100"),
        ("jpeg:0", r"out of range"),
        ("blur:nan", r"lacks its strength"),
        ("blur:99", r"expected a number from 0.1 to 20"),
        ("jpeg:70+", r"'' is not known"),
        ("", r"'' is not known"),
    ],
)
def test_a_view_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message):
        parse_view(text)


@pytest.mark.parametrize("text", ["jpeg", "jpeg:0", "jpeg:x", "resize:3", "jpeg:101", "sepia:2"])
def test_an_augmentation_that_cannot_be(text):
    with pytest.raises(InputError, match="augmentation|known"):
        parse_augmentation(text)
