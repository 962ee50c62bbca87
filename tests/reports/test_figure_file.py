"""Files of figures: formats, fonts, and sizes for papers."""

import re
import zlib

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.contact_sheet import draw_contact_sheet
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.figure_file import COLUMN_INCHES, FigureStyle
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.reports.robustness_figure import RobustnessPanel, draw_robustness

NAMES = ["telea", "navier-stokes", "texture-copy", "latent"]
TITLE = "A title of its own"


def matrix(path, style):
    return draw_matrix(np.arange(16.0).reshape(4, 4) * 6, NAMES, NAMES, path, TITLE, style=style)


def curve(path, style):
    layers = [f"layer{n}" for n in range(12)]
    cells = {(layer, "ID"): Estimate(float(n)) for n, layer in enumerate(layers)}
    table = Table("layer", tuple(layers), ("ID",), cells)
    return draw_domains(table, path, TITLE, "IoU (percent)", connected=True, style=style)


def robustness(path, style):
    points = [(50.0, 40.0, 60.0)] * 3
    panel = RobustnessPanel("JPEG, quality", ["clean", "90", "70"], {"telea": points})
    return draw_robustness([panel, panel], path, TITLE, style)


def sheet(path, style):
    image = np.zeros((64, 80, 3), np.uint8)
    row = ("telea, IoU 50", image, np.eye(64, 80, dtype=bool), np.zeros((64, 80)))
    return draw_contact_sheet([row] * 2, path, style)


FIGURES = {"matrix": matrix, "curve": curve, "robustness": robustness, "sheet": sheet}


def pdf_streams(content):
    for found in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            yield zlib.decompress(found[1])
        except zlib.error:
            yield found[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_fonts_of_a_pdf_are_embedded(name, tmp_path):
    path = FIGURES[name](tmp_path / "figure.png", FigureStyle("pdf"))
    assert path == tmp_path / "figure.pdf"
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and b"/FontFile2" in content
    # Type 3 fonts are what publishers refuse.
    assert b"/Type3" not in content.replace(b" ", b"")
    assert b"matplotlib" not in content.lower() and b"CreationDate" not in content


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_texts_of_an_svg_stay_text(name, tmp_path):
    for copy in ("one", "two"):
        path = FIGURES[name](tmp_path / f"{copy}.png", FigureStyle("svg"))
    content = path.read_text()
    assert "<text" in content and (TITLE in content or name == "sheet")
    assert (tmp_path / "one.svg").read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("columns", COLUMN_INCHES)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_for_a_paper_is_as_wide_as_its_columns_and_has_no_title(name, columns, tmp_path):
    path = FIGURES[name](tmp_path / "f.png", FigureStyle("svg", columns))
    content = path.read_text()
    assert TITLE not in content
    width = float(re.search(r'width="([\d.]+)pt"', content)[1]) / 72
    assert width == pytest.approx(COLUMN_INCHES[columns], abs=0.03)
    sizes = {float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", content)}
    assert sizes and sizes <= {7.0, 8.0}


def test_a_picture_for_a_paper_has_300_dots_an_inch(tmp_path):
    path = matrix(tmp_path / "m.png", FigureStyle("png", 1))
    with Image.open(path) as picture:
        assert picture.width == pytest.approx(300 * COLUMN_INCHES[1], abs=8)


def test_other_formats_and_columns_are_refused():
    with pytest.raises(UnknownNameError, match="unknown figure_format 'gif'"):
        FigureStyle("gif")
    with pytest.raises(UnknownNameError, match="unknown columns '3'"):
        FigureStyle("png", 3)
