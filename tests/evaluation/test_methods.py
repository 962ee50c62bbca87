"""Methods side by side: their figures, and paired differences from a baseline."""

from dataclasses import replace

import numpy as np
import pytest
from support.made_evaluation import config_of, localized

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.methods import methods_of


def runs_of(decoder, shift=0.0, seeds=(0,)):
    """Return evaluations of runs on two generators, of the same photographs."""
    random = np.random.default_rng(0)
    hard = random.uniform(0, 30, 12)
    return [
        localized(
            learned,
            seed,
            scenes="photo",
            config=config_of(learned, seed, decoder_type=decoder),
            **{
                name: (40.0 + shift + 20 * (name == learned) + hard).tolist()
                for name in ("lama", "ldm")
            },
        )
        for learned in ("lama", "ldm")
        for seed in seeds
    ]


def with_real(evaluation, shares):
    """Return an evaluation with real images of so many pixels called fake."""
    real = evaluation.table.slice(0, len(shares))
    place = real.column_names.index("fake_share")
    real = real.set_column(place, "fake_share", [np.array(shares)])
    return replace(evaluation, real=real)


def test_means_the_worst_cell_and_false_alarms():
    runs = [with_real(one, [0.0, 0.02, 0.0, 0.06]) for one in runs_of("mlp")]
    (method,) = methods_of([("ours", runs)])
    inside, outside = (method.domains[name] for name in ("ID", "OOD"))
    assert inside.value - outside.value == pytest.approx(20)
    assert (inside.cells, outside.cells) == (2, 2)
    worst, place = method.worst
    assert worst.value == pytest.approx(outside.value)
    assert place == "tested on lama, trained on ldm"
    assert method.false_alarms["false_alarm_pixels"].value == pytest.approx(2.0)
    assert method.false_alarms["false_alarm_images"].value == pytest.approx(50.0)
    assert method.false_alarms["false_alarm_pixels"].interval.low < 2.0
    assert (len(method.runs), method.seeds, method.differences) == (2, 1, {})


def test_false_alarms_are_of_the_cells_own_images():
    """A run is evaluated on two datasets and two views; each cell has real images of its own."""
    config = config_of("ldm")
    where = [("set", "clean", 0.1), ("other", "clean", 0.3), ("set", "jpeg-70", 0.9)]
    runs = [
        with_real(
            localized("ldm", store=str(about), config=config, ldm=[50], **about),
            [share],
        )
        for dataset, view, share in where
        for about in [{"dataset": dataset, "view": view}]
    ]
    by_name = {one.name: one for one in methods_of([("ours", runs)])}
    alarms = {name: one.false_alarms["false_alarm_pixels"].value for name, one in by_name.items()}
    assert alarms == pytest.approx({"ours, view clean": 20.0, "ours, view jpeg-70": 90.0})


def test_a_method_with_a_run_that_learned_nothing_is_marked():
    runs = [with_real(one, [0.0, 0.02, 0.0, 0.06]) for one in runs_of("mlp")]
    runs[1] = replace(runs[1], problem="it learned nothing")
    ours, theirs = methods_of([("ours", runs), ("theirs", runs_of("conv-4"))])
    assert (ours.mark, theirs.mark) == ("!", "")
    assert {one.mark for one in ours.false_alarms.values()} == {"!"}


def test_methods_without_small_regions_have_figures_of_their_own():
    runs = []
    for one in (with_real(one, [0.0, 0.02, 0.0, 0.06]) for one in runs_of("mlp")):
        place = one.table.column_names.index("iou_min_region")
        values = one.values("iou") + 5
        runs.append(replace(one, table=one.table.set_column(place, "iou_min_region", [values])))
    named = [("ours", runs), ("theirs", [replace(one, config=one.config) for one in runs])]
    (plain, _), (ours, theirs) = (
        methods_of(named, masks=masks, baselines=["theirs"]) for masks in ("", "_min_region")
    )
    for domain in ("ID", "OOD"):
        assert ours.domains[domain].value == pytest.approx(plain.domains[domain].value + 5)
        assert ours.differences[domain].value == 0
    assert ours.worst[0].value == pytest.approx(plain.worst[0].value + 5)
    assert ours.false_alarms["false_alarm_pixels"].value == pytest.approx(10.0)
    assert theirs.is_known and plain.is_known


def test_a_run_that_keeps_no_smallest_region_has_no_figures_without_small_ones():
    runs = []
    for one in runs_of("mlp"):
        place = one.table.column_names.index("iou_min_region")
        nan = [np.full(one.table.num_rows, np.nan)]
        runs.append(replace(one, table=one.table.set_column(place, "iou_min_region", nan)))
    (ours, _) = methods_of(
        [("ours", runs), ("theirs", runs_of("pup"))], masks="_min_region", baselines=["theirs"]
    )
    assert not ours.is_known and ours.differences == {}


def test_a_method_with_one_run_that_keeps_no_minimum_size_has_no_differences():
    """The means were over the cells that are known, on one side all and on the other some."""
    runs, theirs = runs_of("mlp"), runs_of("conv-4")
    place = theirs[0].table.column_names.index("iou_min_region")
    nan = [np.full(theirs[0].table.num_rows, np.nan)]
    theirs[0] = replace(theirs[0], table=theirs[0].table.set_column(place, "iou_min_region", nan))
    named = [("ours", runs), ("theirs", theirs)]
    for baseline in ("ours", "theirs"):
        found = methods_of(named, masks="_min_region", baselines=[baseline])
        assert [one.is_known for one in found] == [True, False]
        assert [one.differences for one in found] == [{}, {}]


def test_differences_are_paired():
    """Images that are hard for both say nothing about the difference."""
    named = [("ours", runs_of("mlp", shift=3.0)), ("theirs", runs_of("conv-4"))]
    ours, theirs = methods_of(named, baselines=["theirs"])
    assert theirs.differences == {}
    for difference in ours.differences.values():
        assert difference.value == pytest.approx(3.0)
        assert difference.interval == pytest.approx((3.0, 3.0))
        assert difference.p_value < 0.001
    width = np.ptp(ours.domains["ID"].interval)
    assert width > 3


def test_a_baseline_with_fewer_runs_is_compared_on_what_both_have():
    half = runs_of("conv-4")[:1]
    ours, _ = methods_of(
        [("ours", runs_of("mlp", 5.0)), ("none", []), ("half", half)], baselines=["none", "half"]
    )
    assert ours.differences["ID"].value == pytest.approx(5.0)
    other = [
        localized("lama", dataset="other", config=config_of("lama", dataset="other"), lama=[1.0])
    ]
    (alone, _) = methods_of([("alone", other), ("half", half)], baselines=["half"])
    assert alone.differences == {}


def test_runs_of_one_name_that_differ_are_methods_of_their_own():
    both = [*runs_of("mlp"), *runs_of("pup")]
    methods = methods_of([("ours", both)])
    assert [one.name for one in methods] == ["ours, decoder mlp", "ours, decoder pup"]
    with pytest.raises(InputError, match="the baseline 'ours' is several methods; expected one"):
        methods_of([("ours", both)], baselines=["ours"])
