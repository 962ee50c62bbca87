import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import InputError
from declip_pipeline.reports.contact_sheet import draw_contact_sheet


def sheet_row(height, width, level=0.9):
    image = np.full((height, width, 3), (0, 160, 0), dtype=np.uint8)
    truth = np.zeros((height, width), dtype=bool)
    truth[height // 4 : height // 2, width // 4 : width // 2] = True
    return f"{height}x{width}", image, truth, np.where(truth, level, 0.0)


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


@pytest.mark.slow
def test_three_columns_hold_picture_truth_and_prediction(tmp_path):
    path = tmp_path / "sheet.png"
    draw_contact_sheet([sheet_row(64, 64)], path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    third = pixels.shape[1] // 3
    first, second, last = (pixels[:, i * third : (i + 1) * third] for i in range(3))

    def share(part, colour):
        return (np.abs(part - colour).max(axis=2) <= 3).mean()

    assert share(first, (0, 160, 0)) > 0.4
    assert share(second, (0, 160, 0)) == 0
    assert share(second, (0, 0, 0)) > 0.4  # real
    grey = round(160 * 0.587)
    assert share(last, (grey, grey, grey)) > 0.4
    warm = (last[..., 0] - last[..., 2]) > 80
    assert warm.mean() > 0.02
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.slow
def test_pictures_of_any_shape(tmp_path):
    path = tmp_path / "sheet.png"
    shapes = [(1, 1), (1, 40), (300, 200), (200, 300), (1500, 900)]
    draw_contact_sheet([sheet_row(*shape) for shape in shapes], path)
    width, height = size_of(path)
    assert 900 < width < 1300
    assert 1000 < height < 2500


@pytest.mark.slow
def test_quiet_and_saturated_predictions_have_no_outline_to_draw(tmp_path):
    rows = [sheet_row(32, 32, level) for level in (0.0, 0.5, 1.0)]
    caption, image, truth, _ = rows[0]
    draw_contact_sheet([*rows, (caption, image, truth, np.ones((32, 32)))], tmp_path / "s.png")
    assert size_of(tmp_path / "s.png")[0] > 900


def test_a_sheet_of_no_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="a contact sheet of no rows; expected at least one"):
        draw_contact_sheet([], tmp_path / "s.png")


def test_a_row_that_does_not_fit_is_named(tmp_path):
    caption, image, truth, prediction = sheet_row(8, 9)
    with pytest.raises(InputError, match="row '8x9': map has shape"):
        draw_contact_sheet([(caption, image, truth, prediction[:4])], tmp_path / "s.png")
    with pytest.raises(InputError, match=r"row '8x9': truth is uint8 of shape \(8, 9\)"):
        draw_contact_sheet(
            [(caption, image, truth.astype(np.uint8), prediction)], tmp_path / "s.png"
        )
    assert not list(tmp_path.iterdir())
