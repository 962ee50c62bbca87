import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import InputError
from declip_pipeline.reports.robustness_figure import RobustnessPanel, draw_robustness

BLUE = (0, 114, 178)
NAN = float("nan")


def panel(value, title="JPEG, quality", low=None, high=None):
    point = (value, value if low is None else low, value if high is None else high)
    return RobustnessPanel(title, ["clean", "90", "70"], {"ldm": [point] * 3})


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def rows_of(picture, colour=BLUE):
    """Rows, from the top, of a colour right of the legend."""
    right = picture[:, picture.shape[1] // 2 :]
    return np.nonzero((np.abs(right - colour).max(axis=2) <= 3).any(axis=1))[0]


def test_the_axis_is_fixed(tmp_path):
    places = []
    for value in (20.0, 40.0, 80.0):
        draw_robustness([panel(value)], tmp_path / f"{value}.png", "t")
        places.append(rows_of(pixels(tmp_path / f"{value}.png")).mean())
    assert places[0] - places[1] == pytest.approx((places[1] - places[2]) / 2, abs=1.5)
    assert places[0] > places[1] > places[2]


def test_the_interval_is_a_band(tmp_path):
    draw_robustness([panel(50.0, low=30.0, high=90.0)], tmp_path / "a.png", "t")
    picture = pixels(tmp_path / "a.png")
    band = [round(0.15 * part + 0.85 * 255) for part in BLUE]
    rows = rows_of(picture, band)
    line = rows_of(picture).mean()
    assert (line - rows.min()) / (rows.max() - line) == pytest.approx(2, abs=0.1)


def test_gaps_many_panels_and_many_lines_are_drawn(tmp_path):
    lines = {f"generator {n}": [(10.0 * n, NAN, NAN), (NAN, NAN, NAN)] for n in range(8)}
    many = [RobustnessPanel(f"kind {n}", ["clean", "1"], lines) for n in range(5)]
    draw_robustness(many, tmp_path / "many.png", "t")
    draw_robustness([panel(100.0)], tmp_path / "one.png", "t")
    wide, narrow = pixels(tmp_path / "many.png").shape[1], pixels(tmp_path / "one.png").shape[1]
    assert wide > 3 * narrow


def test_lines_must_fit(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(InputError, match="no panel to draw; expected at least one kind"):
        draw_robustness([], path, "t")
    short = RobustnessPanel("blur", ["clean", "1"], {"ldm": [(1.0, 1.0, 1.0)]})
    with pytest.raises(InputError, match="'ldm' of panel 'blur' has 1 points; expected one for ea"):
        draw_robustness([short], path, "t")
    other = RobustnessPanel("blur", ["clean"], {"lama": [(1.0, 1.0, 1.0)]})
    with pytest.raises(InputError, match="panel 'blur' has 1 strengths and the lines lama; expec"):
        draw_robustness([panel(1.0), other], path, "t")
    assert not list(tmp_path.iterdir())
