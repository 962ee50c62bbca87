import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import InputError
from declip_pipeline.reports.matrix_figure import draw_matrix

NAMES = ["telea", "navier-stokes", "texture-copy", "latent-resample"]


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def share_of(picture, colour, tolerance=3):
    return (np.abs(picture - colour).max(axis=2) <= tolerance).mean()


@pytest.mark.slow
def test_colours_follow_a_fixed_scale(tmp_path):
    low, high, missing = (255, 255, 217), (8, 29, 88), (238, 238, 238)  # ends of YlGnBu; the fill
    draw_matrix(np.zeros((2, 2)), NAMES[:2], NAMES[:2], tmp_path / "low.png", "t")
    draw_matrix(np.full((2, 2), 100.0), NAMES[:2], NAMES[:2], tmp_path / "high.png", "t")
    draw_matrix(np.full((2, 2), np.nan), NAMES[:2], NAMES[:2], tmp_path / "none.png", "t")
    shares = {
        name: [share_of(pixels(tmp_path / f"{name}.png"), c) for c in (low, high, missing)]
        for name in ("low", "high", "none")
    }
    assert [int(np.argmax(s)) for s in shares.values()] == [0, 1, 2]
    assert all(max(s) > 0.1 for s in shares.values())


@pytest.mark.slow
def test_equal_matrices_are_equal_files_and_nothing_else_is_left(tmp_path):
    values = np.arange(16.0).reshape(4, 4) * 6
    values[1, 2] = np.nan
    for name in ("one.png", "two.png"):
        draw_matrix(values, NAMES, NAMES, tmp_path / name, "IoU")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_long_names_and_titles_are_not_cut(tmp_path):
    path = tmp_path / "long.png"
    draw_matrix(np.ones((1, 2)), ["a rather long name " * 3], ["b" * 30, "c"], path, "title " * 20)
    picture = pixels(path)
    border = np.concatenate([picture[:10], picture[-10:]]), picture[:, :10], picture[:, -10:]
    assert all((edge == 255).all() for edge in border)


@pytest.mark.slow
def test_a_column_of_several_generators_is_framed_for_each(tmp_path):
    values, rows = np.zeros((2, 1)), ["a", "b"]
    for name, column in (("both", ("a", "b")), ("one", ("a",)), ("none", ("c",))):
        draw_matrix(values, rows, [column], tmp_path / f"{name}.png", "t")
    ink = [
        share_of(pixels(tmp_path / f"{name}.png")[40:-80], (34, 34, 34), 40)
        for name in ("both", "one", "none")
    ]
    assert ink[0] > ink[1] > ink[2]


def test_pyplot_is_not_touched(tmp_path):
    from matplotlib import _pylab_helpers

    draw_matrix(np.ones((1, 1)), ["a"], ["a"], tmp_path / "m.png", "t")
    assert not _pylab_helpers.Gcf.figs


def test_names_must_fit(tmp_path):
    with pytest.raises(InputError, match=r"matrix has shape \(1, 2\); expected \(1, 1\)"):
        draw_matrix(np.ones((1, 2)), ["a"], ["a"], tmp_path / "m.png", "t")
    assert not list(tmp_path.iterdir())
