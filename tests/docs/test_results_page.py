"""Measurements in the documents are those of benchmarks/results."""

import json
import re
from math import ceil
from pathlib import Path
from typing import get_type_hints

import demo_tables
import make_results
import pytest

from stages.evaluate import evaluate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", make_results.DOCUMENTS, ids=lambda file: file.name)
def test_document_is_what_the_script_prints(document):
    assert document.read_text() == make_results.filled(document), "run python docs/make_results.py"


def test_page_names_every_result_file():
    page = make_results.PAGE.read_text()
    for file in make_results.RESULTS.glob("*.json"):
        assert file.name in page


def test_every_block_has_a_table():
    for document in make_results.DOCUMENTS:
        for match in make_results.BLOCK.finditer(document.read_text()):
            assert match[2] in make_results.TABLES
        text = document.read_text()
        assert text.count("<!-- result: ") == text.count("<!-- end of result -->")


def test_floats_keep_three_digits():
    shown = [make_results.shown(value) for value in (8782.54, 0.0115737, 26.54, 151.0, 0.0)]
    assert shown == ["8,780", "0.0116", "26.5", "151", "0.0"]


def test_readme_matrix_is_the_demos():
    rows = demo_tables.demo_rows(f"figures/{make_results.VIT}/matrix.csv")
    readme = (ROOT / "README.md").read_text()
    for tested in {row["row"] for row in rows}:
        cells = [
            f"**{float(row['value']):.1f}**"
            if row["row"] == row["column"]
            else f"{float(row['value']):.1f}"
            for row in rows
            if row["row"] == tested
        ]
        assert f"| {tested} | {' | '.join(cells)} |" in readme


def test_memory_of_evaluate_in_its_help_is_what_was_measured():
    """Rounded up to the next five bytes a pixel."""
    text = get_type_hints(evaluate, include_extras=True)["batch_size"].__metadata__[0].help
    said = re.search(r"at most (\d+) bytes a pixel \((\d+) where a quarter of it is fake\)", text)
    assert said is not None
    rows = make_results.rows_of("evaluate_memory")
    most = {
        fake: max(row["bytes a pixel"] for row in rows if row["fake pixels"] == fake)
        for fake in ("all", "a quarter")
    }
    assert [int(figure) for figure in said.groups()] == [5 * ceil(n / 5) for n in most.values()]


def test_a_changed_figure_is_found(tmp_path, monkeypatch):
    content = json.loads((make_results.RESULTS / "metrics.json").read_text())
    content["rows"][1]["median"] = 987.0
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(make_results, "RESULTS", tmp_path)
    table = make_results.TABLES["metrics"](ROOT / "docs" / "design.md")
    assert "987" in table
