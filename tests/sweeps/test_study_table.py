"""A study's figures: by generator, and by what its runs differ in, in and out of domain."""

from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.evaluation.figure_table import Figure
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.sweeps.study_table import Judged, domain_table, generator_table


def judged(run, learned, **values):
    figures = {
        name: Figure(value, Interval(value - 1, value + 1)) for name, value in values.items()
    }
    return Judged(Path(run), tuple(learned.split("+")), figures)


RUNS = [
    judged("a", "ldm", lama=10.0, ldm=50.0, other=1.0),
    judged("b", "lama", lama=80.0, ldm=20.0, other=3.0),
]


def test_generators_that_were_learned_come_first():
    table = generator_table(RUNS)
    assert table.rows == ("ldm", "lama", "other") and table.columns == ("ldm", "lama")
    np.testing.assert_array_equal(table.values, [[50, 20], [10, 80], [1, 3]])
    assert table.cell("lama", "ldm").interval == (9, 11)
    assert np.isnan(table.cell("lama", "none").value)


def test_a_cell_of_several_is_their_mean_without_an_interval():
    table = generator_table([*RUNS, judged("c", "lama", lama=90.0)])
    assert table.cell("lama", "lama").value == 85
    assert np.isnan(table.cell("lama", "lama").interval).all()


def test_domains_are_means_over_cells():
    rows = {Path("a"): "layer0", Path("b"): "layer1"}
    table = domain_table(RUNS, "layer", rows, {"layer0": (Interval(1, 2), Interval(3, 4))})
    assert table.rows == ("layer0", "layer1") and table.columns == ("ID", "OOD")
    np.testing.assert_array_equal(table.values, [[50, 5.5], [80, 11.5]])
    assert table.cell("layer0", "OOD").interval == (3, 4)
    assert np.isnan(table.cell("layer1", "OOD").interval).all()
    together = domain_table(RUNS, "", dict.fromkeys(rows, "ours"), {})
    assert together.values.tolist() == [[65, pytest.approx((10 + 1 + 20 + 3) / 4)]]
