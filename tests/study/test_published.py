"""Figures beside the published ones: text, Markdown and CSV."""

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.study.published import (
    Published,
    beside_csv,
    beside_markdown,
    beside_published,
    beside_text,
)
from declip_pipeline.study.tables import StudyTable

TABLE = Table(
    "test \\ train",
    ("ldm", "a|b"),
    ("ldm", "lama"),
    {
        ("ldm", "ldm"): Estimate(50.24, Interval(48.0, 52.06)),
        ("ldm", "lama"): Estimate(20.0),
        ("a|b", "ldm"): Estimate(1.0, Interval(0.5, 1.5)),
    },
)
PUBLISHED = {"ldm": {"ldm": 51.1}, "a|b": {"lama": 73.85, "none": 1.0}}


def test_a_cell_is_ours_then_theirs_and_the_difference():
    text = beside_text(TABLE, PUBLISHED, 1, with_intervals=False)
    assert text.splitlines() == [
        "test \\ train  ldm                lama",
        "ldm           50.2 (51.1, -0.9)  20.0",
        "a|b           1.0                - (73.85)",
    ]


def test_other_methods_are_rows_of_a_table_that_is_no_matrix():
    known = Published("a page", {"ldm": {"ldm": 51.1}}, others={"TruFor": {"lama": 5.0}})
    ((part,),) = beside_published([StudyTable(TABLE)], known)
    table, figures = part
    assert table.rows == ("ldm", "a|b", "TruFor")
    assert beside_text(table, figures, 1, with_intervals=False).splitlines()[-1] == (
        "TruFor        -                  - (5.0)"
    )
    # Of several tables no figure is of one of them.
    parts = beside_published([StudyTable(TABLE)] * 2, known)
    assert [(one.rows, figures) for ((one, figures),) in parts] == [(TABLE.rows, {})] * 2


def test_intervals_stand_behind_ours():
    text = beside_text(TABLE, PUBLISHED, 1, with_intervals=True)
    assert "50.2 [48.0, 52.1] (51.1, -0.9)" in text
    assert beside_markdown(TABLE, PUBLISHED, 1).splitlines() == [
        "| test \\ train | ldm | lama |",
        "| --- | ---: | ---: |",
        "| ldm | 50.2 [48.0, 52.1] (51.1, -0.9) | 20.0 |",
        "| a\\|b | 1.0 [0.5, 1.5] | - (73.85) |",
    ]


def test_the_file_has_a_row_for_each_cell():
    about = {"metric": "f1", "protocol": ["in percent", "all pixels"]}
    lines = beside_csv([(TABLE, {"ldm": {"ldm": 50.0}})], **about).splitlines()
    assert lines[0] == "row,column,ours,low,high,published,difference,mark,metric,protocol"
    assert lines[1].startswith("ldm,ldm,50.24,48.0,52.06,50.0,0.24")
    end = ",f1,in percent; all pixels"
    assert lines[2:] == [
        f"ldm,lama,20.0,,,,,{end}",
        f"a|b,ldm,1.0,0.5,1.5,,,{end}",
        f"a|b,lama,,,,,,{end}",
    ]
