"""Matrices never mix configurations, and a mean and its interval are of the same statistic."""

from dataclasses import replace

import numpy as np
import pytest
from support.made_evaluation import config_of, localized

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import cells_of, seed_groups
from declip_pipeline.evaluation.evaluation import in_common, merged
from declip_pipeline.evaluation.intervals import localization_figures
from declip_pipeline.evaluation.matrices import domain_estimates, matrices
from declip_pipeline.evaluation.table import two_way_tables
from declip_pipeline.metrics.bootstrap import mean_interval


def matrix_of(evaluations, **options):
    (found,) = matrices(evaluations, **options)
    return found


def normal(mean, count, seed):
    return mean + 10 * np.random.default_rng(seed).normal(size=count)


def interval_out_of_domain(evaluations):
    return domain_estimates(evaluations)[1].interval


def test_the_matrix_has_tests_as_rows_and_trainings_as_columns():
    found = matrix_of(
        [
            localized("ldm", ldm=[80.0, 80.0], lama=[20.0], repaint=[None]),
            localized("lama+ldm", ldm=[10.0, 30.0], lama=[90.0]),
        ]
    )
    assert found.table.rows == ("lama", "ldm", "repaint")
    assert found.table.columns == ("lama+ldm", "ldm")
    np.testing.assert_array_equal(found.table.values, [[90, 20], [20, 80], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.in_domain, [[True, False], [True, True], [False, False]])
    inside, outside = found.domains["iou"]
    assert (inside.value, inside.cells) == (pytest.approx(190 / 3), 3)
    assert (outside.value, outside.cells) == (20, 1)


def test_in_domain_cells_are_resampled_each_by_itself():
    lama, ldm = normal(80, 400, 1), normal(60, 100, 2)
    inside, outside = domain_estimates([localized("lama", lama=lama), localized("ldm", ldm=ldm)])
    assert np.isnan([outside.value, *outside.interval]).all()
    error = np.sqrt(lama.var() / 400 + ldm.var() / 100) / 2
    middle = (lama.mean() + ldm.mean()) / 2
    assert inside.value == pytest.approx(middle)
    expected = (middle - 1.96 * error, middle + 1.96 * error)
    assert inside.interval == pytest.approx(expected, abs=0.08 * error)


def test_cells_of_a_row_take_the_same_images():
    """The two cells vary against each other image by image, so their mean does not vary."""
    one = normal(50, 60, 3)
    evaluations = [localized("a", x=one), localized("b", x=100 - one)]
    assert interval_out_of_domain(evaluations) == pytest.approx((50, 50))
    alone = interval_out_of_domain(evaluations[:1])
    assert alone == pytest.approx(mean_interval(one), abs=0.4)


def test_seeds_are_resampled_alike_in_all_cells_of_a_column():
    """Each seed shifts all its cells: with its own seeds in each of three, the mean would seldom
    move so far. Of two seeds it is 9.2 times as far as they lie from their mean."""
    images = np.zeros(50)
    seeds = [
        localized("a", seed, **dict.fromkeys("xyz", images + shift))
        for seed, shift in enumerate((49.0, 51.0))
    ]
    assert interval_out_of_domain(seeds) == pytest.approx((40.83, 59.17), abs=0.01)


def test_no_interval_leaves_the_range_of_its_metric():
    seeds = [localized("a", seed, x=np.zeros(50) + iou) for seed, iou in enumerate((10, 90))]
    assert interval_out_of_domain(seeds) == (0, 100)
    figures = localization_figures(seeds)
    assert (figures["iou_low"], figures["iou_high"]) == (0, 100)


def test_forgeries_of_one_photograph_are_drawn_together():
    """Cells that are copies have the interval of one, in the matrix and over all images."""
    one = normal(50, 60, 3)
    cells = dict.fromkeys(("lama", "ldm", "telea"), one)
    alone, thrice = localized("x", scenes="set", lama=one), localized("x", scenes="set", **cells)
    expected = interval_out_of_domain([alone])
    assert interval_out_of_domain([thrice]) == pytest.approx(expected)
    assert thrice.interval() == pytest.approx(mean_interval(one, scenes=np.arange(60)), abs=0.4)
    apart = localized("x", scenes="set", lama=one, ldm=normal(50, 60, 4), telea=normal(50, 60, 5))
    low, high = interval_out_of_domain([apart])
    assert high - low < 0.7 * (expected.high - expected.low)


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged():
    """60.2, 62.8 and 66.1 at three learning rates were printed as "ID 63.0"."""
    rates = {1e-3: 60.2, 1e-2: 62.8, 1e-1: 66.1}
    runs = [
        localized("ldm", config=config_of("ldm", learning_rate=rate), ldm=[iou, iou])
        for rate, iou in rates.items()
    ]
    found = matrices(runs)
    assert [one.domains["iou"][0].value for one in found] == list(rates.values())
    assert [one.title for one in found] == [
        f"linear on layer1 of net, learning_rate {rate:g}" for rate in rates
    ]
    groups = seed_groups(runs)
    assert [group.title() for group in groups] == [f"learning_rate {rate:g}" for rate in rates]
    with pytest.raises(InputError, match="3 configurations of runs .*learning_rate 0.001.*expecte"):
        domain_estimates(runs)


def test_a_matrix_is_of_one_method_and_named_by_it():
    conv = config_of("ldm", decoder_type="conv-4", widths=[8, 4])
    found = matrices([localized("ldm", ldm=[20.0]), localized("ldm", config=conv, ldm=[80.0])])
    assert [one.title for one in found] == ["linear on layer1 of net", "conv-4 on layer1 of net"]


def test_groups_differ_in_their_seed_only():
    runs = [
        localized("a", 1, x=[10.0, 20.0]),
        localized("b", 0, x=[10.0, 20.0]),
        localized("a", 0, x=[30.0, 40.0]),
        localized("a", 0, x=[0.0, 0.0]),
        localized("a", 0, store="another", x=[30.0, 40.0]),
    ]
    groups = seed_groups(runs)
    assert [[runs.index(one) for one in group.members] for group in groups] == [[2, 0], [1], [4]]
    figures = localization_figures(groups[0].members)
    assert (figures["iou"], figures["images"]) == (25.0, 2)
    assert figures["iou_spread"] == pytest.approx(np.sqrt(200))


def test_a_run_or_store_given_twice_counts_once():
    """It counted as another seed: ID [44.3, 72.9] became [53.6, 63.6]."""
    runs = [localized("ldm", seed, ldm=normal(50 + seed, 40, seed)) for seed in (0, 1)]
    once = domain_estimates(runs)
    assert domain_estimates([*runs, runs[0]]) == pytest.approx(once)
    assert domain_estimates([*runs, *runs]) == pytest.approx(once)
    # Another store with the same images adds none.
    copies = [replace(localized("ldm", seed, store="copy", ldm=normal(50 + seed, 40, seed)))
              for seed in (0, 1)]  # fmt: skip
    again = domain_estimates([*runs, *copies])
    assert again[0].value == pytest.approx(once[0].value)
    assert again[0].interval == pytest.approx(once[0].interval)


def test_stores_of_one_dataset_with_the_same_generator_are_one_cell():
    one = localized("ldm", store="a", ldm=[10.0, 20.0, 30.0])
    # Other images of the same generator.
    other = localized("ldm", store="b", ldm=[None] * 3 + [60.0])
    (cell,) = cells_of([one, other])
    assert cell.figures()["images"] == 3 + 1
    assert domain_estimates([one, other])[0].value == 30
    (joined,) = merged([one, other])
    assert joined.mean() == 30


def test_a_mean_and_its_interval_are_of_the_same_statistic():
    """A generator in two test datasets: reproduce printed 60.03 [49.85, 50.20]."""
    wave = np.sin(np.arange(40))
    config = config_of("pluralistic", dataset="celebahq")
    runs = [
        localized(
            "pluralistic",
            dataset="celebahq",
            store="A",
            config=config,
            ldm=80 + wave,
            lama=20 + wave,
        ),
        localized("pluralistic", dataset="ffhq", store="B", config=config, ldm=80 + wave),
    ]
    for estimate in (
        domain_estimates(runs)[1],
        two_way_tables(runs, "decoder", "domain")[0].cell("linear", "OOD"),
    ):
        assert estimate.cells == 3
        assert estimate.value == pytest.approx(60 + wave.mean())
        assert estimate.interval.low < estimate.value < estimate.interval.high
    # A generator is named with its dataset where two have one of that name.
    assert matrix_of(runs).table.rows == ("celebahq/ldm", "ffhq/ldm", "lama")


def test_domain_goes_by_dataset_and_generator():
    config = config_of("ns", dataset="demo")
    runs = [
        localized("ns", dataset="demo", store="a", config=config, ns=[90.0], telea=[50.0]),
        localized("ns", dataset="other", store="b", config=config, **{"navier-stokes": [70.0]}),
    ]
    inside, outside = domain_estimates(runs)
    assert (inside.value, outside.value) == (90, 60)
    inside, outside = domain_estimates(runs, aliases={"ns": "navier-stokes"})
    assert (inside.value, outside.value) == (80, 50)
    same_name = localized("ns", dataset="third", store="c", config=config, ns=[10.0])
    assert domain_estimates([*runs, same_name])[0].value == 90
    assert matrix_of([*runs, same_name]).in_domain.tolist() == [[True], [False], [False], [False]]


def test_runs_of_two_datasets_that_learned_the_same_name_are_two_columns():
    runs = [
        localized("ldm", dataset=name, store=name, config=config_of("ldm", dataset=name), ldm=[iou])
        for name, iou in (("a", 10.0), ("b", 90.0))
    ]
    found = matrix_of(runs)
    assert found.table.columns == ("a/ldm", "b/ldm")
    assert found.table.cell("a/ldm", "a/ldm").value == 10


def test_maps_beside_runs_rename_no_column():
    run = localized("ldm", config=config_of("ldm"), ldm=[10.0])
    about = {"maps": "tool", "folder": "maps", "train_on": ["ldm"], "run_sha256": "m"}
    maps = localized(
        "tool", config={**about, "maps_are": "probabilities", "maps_key": None}, ldm=[20.0]
    )
    assert matrix_of([run]).table.columns == ("ldm",)
    assert [one.table.columns for one in matrices([run, maps])] == [("ldm",), ("ldm",)]


def test_views_are_never_averaged():
    runs = [localized("ldm", store=view, view=view, ldm=[iou]) for view, iou in
            (("clean", 80.0), ("jpeg-70", 60.0))]  # fmt: skip
    found = matrices(runs)
    assert [(one.title, one.table.values.item()) for one in found] == [
        ("linear on layer1 of net, view clean", 80),
        ("linear on layer1 of net, view jpeg-70", 60),
    ]
    (joined,) = merged(runs)
    with pytest.raises(InputError, match="several views or dtypes .*have no common mean"):
        joined.mean()
    assert joined.on("jpeg-70").mean() == 60


def test_seeds_are_averaged_over_the_images_that_all_have():
    runs = [localized("ldm", 0, ldm=[10.0, 20.0, 90.0]), localized("ldm", 1, ldm=[30.0, 40.0])]
    (cell,) = cells_of(runs)
    assert cell.left_out == 1
    assert cell.figures()["iou"] == 25
    same, left_out = in_common(runs)
    assert [len(one.table) for one in same] == [2, 2] and left_out == 1
