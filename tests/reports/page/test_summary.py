"""Which configurations a summary compares."""

import numpy as np
import pytest

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.table import Matrix, Table
from declip_pipeline.reports.page.summary import best_sentences

SMALL, OTHER = ("lama", "ldm"), ("large/lama", "large/ldm")


def matrix(title, value, columns, rows=SMALL):
    """Returns a matrix with the same mean in domain and out of domain."""
    mean = Estimate(value, cells=len(columns))
    places = {(row, column): Estimate(value) for row in rows for column in columns}
    table = Table("tested on", rows, columns, places, title)
    return Matrix(table, np.zeros((len(rows), len(columns)), bool), {"iou": (mean, mean)}, ())


@pytest.mark.parametrize(
    ("others", "best", "number"),
    [
        # More training sets say more, and of those that many configurations share.
        ([matrix("alone", 90.0, ("lama",)), matrix("more", 80.0, ("lama",))], "high", 2),
        ([matrix("both sets", 90.0, (*SMALL, *OTHER), (*SMALL, *OTHER))], "high", 2),
        ([matrix("other images", 90.0, OTHER, OTHER)], "high", 2),
        ([matrix("highest", 90.0, SMALL)], "highest", 3),
    ],
)
def test_means_over_other_cells_are_no_rivals(others, best, number):
    found = [matrix("high", 60.0, SMALL), matrix("low", 50.0, SMALL), *others]
    for sentence, domain in zip(best_sentences(found), ("in domain", "out of domain"), strict=True):
        assert sentence.startswith(f"Best {domain} of {number} configurations: {best}, mean IoU ")
