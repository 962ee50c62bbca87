import numpy as np
import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.reports.matrix import (
    format_matrix_text,
    matrix_means,
    matrix_summary,
)

# DeCLIP (arXiv 2409.08849), ViT-L/14 + RN50, IoU; rows are tested on, columns trained on.
NAMES = ["ldm", "repaint-p2-9k", "lama", "pluralistic"]
PAPER = np.array(
    [
        [51.1, 27.4, 21.6, 4.9],
        [44.7, 74.0, 29.5, 8.1],
        [43.5, 42.4, 86.5, 51.9],
        [56.4, 54.2, 32.0, 83.7],
    ]
)
NAN = float("nan")


def test_means_of_the_published_matrix():
    # The paper prints 73.85 and 34.72, from cells that were not yet rounded.
    assert matrix_means(PAPER, NAMES, NAMES) == pytest.approx((73.825, 34.7167), abs=1e-3)
    assert matrix_summary(PAPER, NAMES, NAMES) == "ID 73.8 (4 cells), OOD 34.7 (12 cells)"


def test_domain_goes_by_name_and_not_by_place():
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert matrix_means(values, ["b", "c"], ["a", "b", "x"]) == pytest.approx((2, 19 / 5))


def test_a_column_of_several_generators_is_in_domain_for_each():
    values, rows = np.array([[80.0, 5.0], [60.0, 9.0], [10.0, 70.0]]), ["lama", "ldm", "real"]
    columns = [("lama", "ldm"), ("a+b",)]
    assert matrix_means(values, rows, columns) == pytest.approx((70, (5 + 9 + 10 + 70) / 4))
    assert format_matrix_text(values, rows, columns).splitlines()[0].split() == [
        *("test", "\\", "train", "lama+ldm", "a+b")
    ]


def test_missing_cells_are_left_out_and_counted():
    values = np.array([[10.0, NAN], [30.0, NAN]])
    assert matrix_means(values, ["a", "b"], ["a", "b"]) == (10, 30)
    summary = matrix_summary(values, ["a", "b"], ["a", "b"])
    assert summary == "ID 10.0 (1 of 2 cells), OOD 30.0 (1 of 2 cells)"


def test_a_mean_of_no_cells_is_nan():
    id_mean, ood_mean = matrix_means(np.array([[7.0]]), ["a"], ["a"])
    assert id_mean == 7
    assert np.isnan(ood_mean)
    assert matrix_summary(np.array([[7.0]]), ["a"], ["a"]) == "ID 7.0 (1 cell), OOD - (0 cells)"


def test_means_have_their_intervals_where_there_are_some():
    values, names = np.array([[10.0, 20.0], [30.0, 40.0]]), ["a", "b"]
    intervals = [(12.34, 30.0), (NAN, NAN)]
    summary = matrix_summary(values, names, names, intervals=intervals)
    assert summary == "ID 25.0 [12.3, 30.0] (2 cells), OOD 25.0 (2 cells)"
    text = format_matrix_text(values, names, names, intervals=intervals)
    assert text.splitlines()[-1] == summary


def test_plain_text_is_aligned():
    text = format_matrix_text(
        np.array([[81.25, NAN], [3.0, 100.0]]), ["a", "navier"], ["a", "navier"]
    )
    assert text == (
        "test \\ train     a  navier\n"
        "a             81.2       -\n"
        "navier         3.0   100.0\n"
        "ID 90.6 (2 cells), OOD 3.0 (1 of 2 cells)\n"
    )


@pytest.mark.parametrize("function", [matrix_means, format_matrix_text])
def test_names_must_fit(function):
    with pytest.raises(
        InputError,
        match=r"shape \(2, 2\); expected \(2, 1\) for 2 test rows and 1 training columns",
    ):
        function(np.zeros((2, 2)), ["a", "b"], ["a"])
    with pytest.raises(InputError, match="at least one of each"):
        function(np.zeros((0, 0)), [], [])
