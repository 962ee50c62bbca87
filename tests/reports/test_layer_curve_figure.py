import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import InputError
from declip_pipeline.reports.layer_curve_figure import draw_layer_curve

BLUE = (0, 114, 178)


def heights_of_blue(path):
    """Rows, from the top, of the pixels in the first line's colour, right of the legend."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    right = pixels[:, pixels.shape[1] // 2 :]
    return np.nonzero((np.abs(right - BLUE).max(axis=2) <= 3).any(axis=1))[0]


@pytest.mark.slow
def test_the_axis_is_fixed(tmp_path):
    layers = [f"layer{i}" for i in range(6)]
    places = []
    for value in (20.0, 40.0, 80.0):
        path = tmp_path / f"{value}.png"
        draw_layer_curve(layers, {"linear": [value] * 6}, path, "t")
        places.append(heights_of_blue(path).mean())
    assert places[0] - places[1] == pytest.approx((places[1] - places[2]) / 2, abs=1.5)
    assert places[0] > places[1] > places[2]


@pytest.mark.slow
def test_gaps_single_layers_and_many_lines_are_drawn(tmp_path):
    nan = float("nan")
    series = {f"decoder {i}": [10.0 * i, nan, nan] for i in range(8)} | {"none": [nan] * 3}
    draw_layer_curve(["a", "b", "c"], series, tmp_path / "many.png", "t")
    draw_layer_curve(["a"], {"linear": [100.0]}, tmp_path / "one.png", "t")
    draw_layer_curve([f"layer{i}" for i in range(24)], {"x": [1.0] * 24}, tmp_path / "vit.png", "t")
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300


@pytest.mark.parametrize(
    ("layers", "series", "message"),
    [
        (["a", "b"], {"linear": [1.0]}, "'linear' has 1 values; expected one for each of the 2"),
        ([], {"linear": []}, "0 layers and 1 series; expected at least one of each"),
        (["a"], {}, "1 layers and 0 series"),
    ],
)
def test_series_must_fit(tmp_path, layers, series, message):
    with pytest.raises(InputError, match=message):
        draw_layer_curve(layers, series, tmp_path / "x.png", "t")
    assert not list(tmp_path.iterdir())
