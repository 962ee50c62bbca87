import numpy as np
import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.reports import overlay as module
from declip_pipeline.reports.overlay import overlay


def random_picture(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_quiet_map_leaves_the_picture_in_grey():
    image = random_picture()
    result = overlay(image, np.zeros((20, 30)))
    assert (result == result[..., :1]).all()
    assert result.dtype == np.uint8
    grey = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(result[..., 0] - grey).max() <= 0.51


def test_the_scale_is_fixed():
    image = np.full((1, 3, 3), 128, dtype=np.uint8)
    alone = overlay(image[:, :1], np.array([[0.3]]))
    beside = overlay(image, np.array([[0.3, 1.0, 0.0]]))
    assert (alone[0, 0] == beside[0, 0]).all()
    assert (beside[0, 2] == 128).all()


def test_heat_grows_with_the_map():
    image = np.full((1, 11, 3), 128, dtype=np.uint8)
    result = overlay(image, np.linspace(0, 1, 11)[None]).astype(int)[0]
    warmth = result[:, 0] - result[:, 2]  # red above blue
    assert warmth[0] == 0
    assert (np.diff(warmth[2:]) > 0).all()
    assert warmth[-1] > 100


def test_strips_make_no_difference(monkeypatch):
    image = random_picture()
    heat_map = np.random.default_rng(1).random((20, 30), dtype=np.float32)
    whole = overlay(image, heat_map)
    for pixels in (1, 70):
        monkeypatch.setattr(module, "PIXELS_AT_ONCE", pixels)
        assert (overlay(image, heat_map) == whole).all()


def test_a_rounding_error_beyond_one_is_clipped():
    image = random_picture(1, 2)
    slightly_outside = overlay(image, np.array([[1.00001, -0.00001]]))
    assert (slightly_outside == overlay(image, np.array([[1.0, 0.0]]))).all()


@pytest.mark.parametrize(
    ("image", "heat_map", "message"),
    [
        (np.zeros((4, 4, 3)), np.zeros((4, 4)), "image is float64 of shape"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), r"expected uint8 of shape \(height, width"),
        (
            np.zeros((4, 5, 3), np.uint8),
            np.zeros((4, 4)),
            r"map has shape \(4, 4\) and its image \(4, 5\); resize the map",
        ),
        (
            np.zeros((1, 2, 3), np.uint8),
            np.array([[0, 2.5]]),
            r"map has values from 0 to 2.5; expected \[0, 1\]",
        ),
        (np.zeros((1, 1, 3), np.uint8), np.array([[np.nan]]), "values from nan to nan"),
    ],
)
def test_what_does_not_fit_is_refused(image, heat_map, message):
    with pytest.raises(InputError, match=message):
        overlay(image, heat_map)
