"""Which configurations a summary compares, and what it says of false alarms."""

from dataclasses import replace

import numpy as np
import pytest
from support.made_evaluation import config_of, localized

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.matrices import Matrix
from declip_pipeline.evaluation.methods import methods_of
from declip_pipeline.evaluation.table import Table
from declip_pipeline.reports.page.summary import best_sentences, rivals_of, summary_of

SMALL, OTHER = ("lama", "ldm"), ("large/lama", "large/ldm")


def matrix(title, value, columns, rows=SMALL, *, lacking=()):
    """Returns a matrix with the same mean in domain and out of domain."""
    mean = Estimate(value, cells=len(columns))
    places = [(row, column) for row in rows for column in columns if (row, column) != lacking]
    cells = {place: Estimate(value, cells=1) for place in places}
    table = Table("tested on", rows, columns, cells, title)
    return Matrix(table, np.zeros((len(rows), len(columns)), bool), {"iou": (mean, mean)}, ())


@pytest.mark.parametrize(
    ("others", "best", "number"),
    [
        # More training sets say more, and of those that many configurations share.
        ([matrix("alone", 90.0, ("lama",)), matrix("more", 80.0, ("lama",))], "high", 2),
        ([matrix("both sets", 90.0, (*SMALL, *OTHER), (*SMALL, *OTHER))], "high", 2),
        ([matrix("other images", 90.0, OTHER, OTHER)], "high", 2),
        ([matrix("in part", 90.0, SMALL, lacking=SMALL)], "high", 2),
        ([matrix("highest", 90.0, SMALL)], "highest", 3),
    ],
)
def test_means_over_other_cells_are_no_rivals(others, best, number):
    found = [matrix("high", 60.0, SMALL), matrix("low", 50.0, SMALL), *others]
    sentences = best_sentences(rivals_of(found), "configuration")
    for sentence, domain in zip(sentences, ("in domain", "out of domain"), strict=False):
        assert sentence.startswith(f"Best {domain} of {number} configurations: {best}, mean IoU ")
    left = len(found) - number
    noun = "configuration" if left == 1 else "configurations"
    words = f"Means of {left} other {noun} are over other cells, and are not compared."
    assert sentences[2:] == ([words] if left else [])


def test_a_configuration_with_cells_of_its_own_has_its_means_named():
    found = [matrix("one", 60.0, SMALL), matrix("other", 50.0, OTHER, OTHER)]
    first, second = best_sentences(rivals_of(found), "configuration")
    assert first == "one: mean IoU 60.0 percent in domain (2 cells) and 60.0 percent out of " + (
        "domain (2 cells)."
    )
    assert second == "Means of 1 other configuration are over other cells, and are not compared."


def run_of(decoder, learned, iou):
    own = config_of(learned, decoder_type=decoder)
    return localized(learned, config=own, lama=[iou, iou + 10], ldm=[iou, iou + 10])


def test_methods_with_runs_missing_are_no_rivals():
    runs = {
        name: [run_of(name, learned, iou) for learned in some]
        for name, iou, some in (("mlp", 50, SMALL), ("pup", 60, SMALL), ("fcn", 80, ("lama",)))
    }
    evaluations = [one for some in runs.values() for one in some]
    _, *sentences = summary_of(evaluations, [], [], methods_of(list(runs.items())))
    assert sentences[0].startswith("Best in domain of 2 methods: pup, mean IoU 65.0")
    assert sentences[1].startswith("Best out of domain of 2 methods: pup, mean IoU 65.0")
    assert sentences[2:] == ["Means of 1 other method are over other cells, and are not compared."]
    _, alone = summary_of(runs["mlp"], [], [], methods_of([("mlp", runs["mlp"])]))
    assert alone.startswith("mlp: mean IoU 55.0")


def test_real_images_of_every_dataset_count_once():
    def evaluation(dataset, share):
        one = localized("lama", dataset=dataset, store=dataset, lama=[10, 20], ldm=[30, 40])
        place = one.table.column_names.index("fake_share")
        real = one.table.set_column(place, "fake_share", [np.full(one.table.num_rows, share)])
        return replace(one, real=real)

    some = [evaluation("one", 0.25), evaluation("other", 0.5)]
    methods = methods_of([("mlp", some)])
    images = sum(one.real.num_rows for one in some)
    words = "depending on the run, 25.00% to 50.00%"
    assert summary_of(some, [], [], methods)[-1] == (
        f"Of {images} real images, {words} of the pixels are called fake."
    )
    alike = [evaluation("one", 0.25), evaluation("other", 0.25)]
    assert summary_of(alike, [], [], methods)[-1] == (
        f"Of {images} real images, 25.00% of the pixels are called fake."
    )
