"""Means in domain and out of domain, drawn with their intervals."""

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.percent_axes import COLOURS

LAYERS = ("layer0", "layer1", "layer2")


def drawn(tmp_path, cells, *, connected=True, beside=None):
    table = Table("layer", LAYERS, ("ID", "OOD"), cells)
    path, title = tmp_path / "domains.png", "Layers"
    draw_domains(table, path, title, "IoU (percent)", connected=connected, beside=beside)
    with Image.open(tmp_path / "domains.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def pixels_of(picture, colour):
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(picture - wanted).sum(axis=2) < 12).sum())


@pytest.mark.slow
def test_intervals_and_lines_are_drawn_where_there_are_any(tmp_path):
    narrow = {(layer, "ID"): Estimate(50.0 + place) for place, layer in enumerate(LAYERS)}
    wide = {key: Estimate(one.value, Interval(20.0, 90.0)) for key, one in narrow.items()}
    plain = drawn(tmp_path, narrow, connected=False)
    # The same marks, and bars through them of most of the axis.
    assert pixels_of(drawn(tmp_path, wide, connected=False), COLOURS[0]) > (
        pixels_of(plain, COLOURS[0]) + 500
    )
    assert pixels_of(drawn(tmp_path, narrow), COLOURS[0]) > pixels_of(plain, COLOURS[0]) + 500
    assert plain.shape[1] > plain.shape[0] > 300


def test_both_domains_are_seen_where_they_are_equal(tmp_path):
    cells = {(layer, domain): Estimate(40.0) for layer in LAYERS for domain in ("ID", "OOD")}
    picture = drawn(tmp_path, cells, connected=False)
    inside, outside = (pixels_of(picture, colour) for colour in COLOURS[:2])
    assert inside > 100 and outside > 100


@pytest.mark.slow
def test_the_axis_is_fixed(tmp_path):
    places = []
    for value in (20.0, 40.0, 80.0):
        picture = drawn(tmp_path, {(layer, "ID"): Estimate(value) for layer in LAYERS})
        right = picture[:, picture.shape[1] // 2 :]
        blue = [int(COLOURS[0][start : start + 2], 16) for start in (1, 3, 5)]
        places.append(np.nonzero((np.abs(right - blue).max(axis=2) <= 3).any(axis=1))[0].mean())
    assert places[0] - places[1] == pytest.approx((places[1] - places[2]) / 2, abs=1.5)
    assert places[0] > places[1] > places[2]


def test_a_table_beside_has_a_panel_with_the_colours_of_the_same_columns(tmp_path):
    cells = {(layer, "OOD"): Estimate(40.0) for layer in LAYERS}
    rows, columns = ("layer1", "+ layer0"), ("OOD", "valid")
    values = {(row, column): Estimate(60.0) for row in rows for column in columns}
    path = Table("layers", rows, columns, values, "Greedy choice")
    alone, both = drawn(tmp_path, cells), drawn(tmp_path, cells, beside=path)
    assert both.shape[1] > alone.shape[1] + 300
    assert pixels_of(both, COLOURS[1]) > pixels_of(alone, COLOURS[1]) + 200
    assert pixels_of(alone, COLOURS[2]) == 0
    assert pixels_of(both, COLOURS[2]) > 100


@pytest.mark.slow
def test_many_rows_and_columns_and_missing_cells_are_drawn(tmp_path):
    names = tuple(f"layer{number}" for number in range(24))
    columns = tuple(f"decoder {number}" for number in range(8))
    table = Table("layer", names, columns, {(names[3], columns[7]): Estimate(100.0)})
    draw_domains(table, tmp_path / "many.png", "Many", "IoU (percent)", connected=True)
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width > picture.height > 300
