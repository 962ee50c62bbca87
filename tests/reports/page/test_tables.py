from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Table
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.page.tables import estimate_cell, number_cell, table_of_estimates


def test_a_missing_number_is_a_dash_without_a_value():
    for value in (None, float("nan")):
        cell = number_cell(value, 1)
        assert (cell.text, cell.value) == ("-", "")


def test_a_number_is_rounded_for_the_eye_and_whole_for_sorting():
    cell = number_cell(12.3456, 1, 10.04, 15.06)
    assert (cell.text, cell.value, cell.low, cell.high) == ("12.3", "12.3456", "10.0", "15.1")
    assert number_cell(12.0, 0, float("nan"), float("nan")).low == ""


def test_an_estimate_has_its_mark_and_what_it_is_a_mean_of():
    one = Estimate(40.0, Interval(30.0, 50.0), by_seed=(39.0, 41.0), cells=3, mark="!")
    cell = estimate_cell(one)
    assert (cell.text, cell.value, cell.low) == ("40.0!", "40.0", "30.0")
    assert cell.hover == "mean over 3 cells, standard deviation over 2 seeds 1.4"
    assert estimate_cell(Estimate()).hover == ""
    # A mean over trainings, as that of false alarms, has no cells.
    cell = estimate_cell(Estimate(40.0, mark="!"))
    assert (cell.text, cell.hover) == ("40.0!", "")


def test_a_table_of_estimates_has_a_cell_for_each_place():
    cells = {("a", "y"): Estimate(1.0, cells=1)}
    found = table_of_estimates(Table("corner", ("a", "b"), ("x", "y"), cells), "t", "About")
    assert [column.name for column in found.columns] == ["corner", "x", "y"]
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["a", "-", "1.0"],
        ["b", "-", "-"],
    ]
