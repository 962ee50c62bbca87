import pytest

from declip_pipeline.reports.page.charts import PLOT_HEIGHT, STYLES, TOP, percent_chart

NAN = float("nan")


def test_the_axis_runs_from_0_to_100_whatever_the_values_are():
    chart = percent_chart("t", "layer", ["a", "b"], {"x": [(0.0, NAN, NAN), (100.0, 50.0, 100.0)]})
    low, high = chart.lines[0].marks
    assert (low.y, high.y) == (TOP + PLOT_HEIGHT, TOP) and chart.floor == low.y
    assert (low.low, low.high) == (None, None)
    assert (high.low, high.high) == (TOP + PLOT_HEIGHT / 2, TOP)
    assert [text for _, text in chart.ticks] == ["0", "20", "40", "60", "80", "100"]
    assert chart.ticks[0][0] == low.y and chart.ticks[-1][0] == high.y


def test_marks_stand_above_their_places():
    chart = percent_chart("t", "layer", ["a", "b", "c"], {"x": [(1.0, NAN, NAN)] * 3})
    assert [mark.x for mark in chart.lines[0].marks] == [x for x, _ in chart.places]


def test_lines_side_by_side_do_not_hide_each_other():
    chart = percent_chart("t", "layer", ["a"], {n: [(5.0, 1.0, 9.0)] for n in "xyz"})
    assert len({line.marks[0].x for line in chart.lines}) == 3


def test_a_missing_value_leaves_a_gap():
    points = [(1.0, NAN, NAN), (NAN, NAN, NAN), (3.0, NAN, NAN), (4.0, NAN, NAN)]
    (line,) = percent_chart("t", "layer", list("abcd"), {"x": points}).lines
    assert len(line.marks) == 3
    assert line.path.count("M") == 1 and line.path.startswith(f"M{line.marks[1].x}")


def test_hovering_says_the_value_and_its_interval():
    points = [(12.34, 10.0, 15.0), (1.0, NAN, NAN)]
    (line,) = percent_chart("t", "layer", ["a", "b"], {"ID": points}).lines
    assert [mark.hover for mark in line.marks] == ["ID, a: 12.3 [10.0, 15.0]", "ID, b: 1.0"]


@pytest.mark.parametrize(("names", "slanted"), [(["a", "b"], False), (["a" * 30, "b"], True)])
def test_long_names_are_slanted(names, slanted):
    chart = percent_chart("t", "layer", names, {"x": [(1.0, NAN, NAN)] * 2})
    assert chart.is_slanted is slanted


def test_more_lines_than_colours_begin_again():
    lines = {str(n): [(1.0, NAN, NAN)] for n in range(STYLES + 1)}
    assert [line.style for line in percent_chart("t", "x", ["a"], lines).lines][-1] == 0
