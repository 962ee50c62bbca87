"""Means in domain and out of domain, drawn with their intervals."""

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.layer_curve_figure import COLOURS

LAYERS = ("layer0", "layer1", "layer2")


def drawn(tmp_path, cells, *, connected=True):
    table = Table("layer", LAYERS, ("ID", "OOD"), cells)
    draw_domains(table, tmp_path / "domains.png", "Layers", "IoU (percent)", connected=connected)
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
