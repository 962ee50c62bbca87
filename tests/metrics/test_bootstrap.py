"""Intervals against the normal theory, exact enumeration, SciPy, and known coverage."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from declip_pipeline.errors import InputError
from declip_pipeline.metrics.bootstrap import (
    Difference,
    Interval,
    mean_interval,
    paired_means,
    percentile_interval,
    resampled_means,
    two_sided_p_value,
)
from declip_pipeline.metrics.resampling import resampled_counts

NAN = float("nan")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def paired_difference(first, second, scenes=None):
    return paired_means([first, second], scenes=scenes).difference(0, 1)


def test_of_many_pictures_it_is_that_of_the_normal_distribution():
    values = 50 + 20 * drawn(900)
    half = 1.96 * values.std() / np.sqrt(900)
    expected = (values.mean() - half, values.mean() + half)
    assert mean_interval(values) == pytest.approx(expected, abs=0.06 * half)


def test_resampled_means_have_their_exact_distribution():
    values = [0.0, 1.0, 10.0]
    exact = [np.mean(drawn) for drawn in product(values, repeat=3)]
    means = resampled_means([np.asarray(values)], resamples=20_000)[0]
    for value in sorted(set(exact)):
        share = exact.count(value) / len(exact)
        off = np.isclose(means, value).mean() - share
        assert abs(off) < 4 * np.sqrt(share * (1 - share) / 20_000)


def test_seeds_and_pictures_are_resampled_each_by_themselves():
    values = np.array([[0.0, 1.0], [10.0, 100.0]])
    widening = np.sqrt(2) * stats.t.ppf(0.975, df=1) / stats.norm.ppf(0.975)
    of_seeds, of_pictures = values.mean(axis=1), values.mean(axis=0)
    exact = [
        of_pictures[list(pictures)].mean()
        + widening * (of_seeds[list(seeds)].mean() - of_seeds.mean())
        for pictures in product(range(2), repeat=2)
        for seeds in product(range(2), repeat=2)
    ]
    means = resampled_means([values], resamples=20_000)[0]
    for value in sorted(set(np.round(exact, 9))):
        share = np.isclose(exact, value).mean()
        off = np.isclose(means, value).mean() - share
        assert abs(off) < 4 * np.sqrt(share * (1 - share) / 20_000)


def test_it_is_that_of_scipy():
    values = np.random.default_rng(3).exponential(size=25)
    ours = mean_interval(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [None, 2, 3, 5, 20])
def test_it_holds_the_truth_as_often_as_it_says(seeds):
    """Of 50 images the percentile interval is a little narrow: its coverage is 93 to 94%. Seeds
    have an effect of their own of half the spread of images, and one on each image."""
    random, held = np.random.default_rng(5), []
    for number in range(400):
        values = random.normal(size=50)
        if seeds is not None:
            values = values + random.normal(size=(seeds, 50)) + random.normal(size=(seeds, 1)) * 0.5
        low, high = mean_interval(values, resamples=400, seed=number)
        held.append(low < 0 < high)
    assert 0.905 < np.mean(held) < 0.98


def test_seeds_alone_give_the_interval_of_student():
    """Normal values of 30 seeds that are all there is to a mean."""
    shifts = drawn(30)
    values = shifts[:, None] + np.zeros((30, 5))
    expected = stats.t.interval(0.95, 29, shifts.mean(), stats.sem(shifts))
    assert mean_interval(values) == pytest.approx(expected, abs=0.06)


def test_copies_of_a_scene_tell_nothing_new():
    values, scenes = drawn(2, 40), np.arange(40)
    once = mean_interval(values, scenes=scenes)
    assert mean_interval(np.tile(values, 3), scenes=np.tile(scenes, 3)) == pytest.approx(once)
    assert once == pytest.approx(mean_interval(values), abs=0.02)
    one, other = values + 0.1, drawn(40, seed=1)
    there = paired_difference(one, other, scenes=scenes)
    thrice = paired_difference(np.tile(one, 3), np.tile(other, 3), scenes=np.tile(scenes, 3))
    assert thrice.interval == pytest.approx(there.interval)
    assert thrice.p_value == there.p_value


def test_scenes_of_several_pictures_have_their_exact_distribution():
    """Two scenes, of one image and of two: a mean over images, not over scenes."""
    values, scenes = np.array([0.0, 3.0, 6.0]), np.array(["one", "two", "two"])
    means = resampled_means([values], scenes=[scenes], resamples=20_000)[0]
    for value, share in ((0.0, 0.25), (3.0, 0.5), (4.5, 0.25)):
        assert np.isclose(means, value).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_pooled_qualities_of_a_picture_hold_the_truth_as_often_as_one():
    random, held, held_alone = np.random.default_rng(6), [], []
    scenes = np.tile(np.arange(60), 3)
    for number in range(400):
        values = (random.normal(size=60) + 0.3 * random.normal(size=(3, 60))).ravel()
        for found, groups in ((held, scenes), (held_alone, None)):
            low, high = mean_interval(values, scenes=groups, resamples=400, seed=number)
            found.append(low < 0 < high)
    assert 0.91 < np.mean(held) < 0.975
    assert np.mean(held_alone) < 0.8


def test_groups_of_other_pictures_draw_their_scenes_together():
    """What one gains of a scene the other loses, though each has images that the other lacks."""
    shared = drawn(50)
    first, second = np.append(shared, 0.0), np.append(0.0, -shared)
    names = [str(number) for number in range(50)]
    scenes = [np.array([*names, "alone"]), np.array(["other", *names])]
    sums = resampled_means([first, second], scenes=scenes).sum(axis=0)
    assert sums.std() < 0.03
    assert resampled_means([first]).std() > 0.12
    few = resampled_means([first, np.array([1.0])], scenes=[scenes[0], np.array(["1"])])
    assert np.isnan(few[1]).all() and not np.isnan(few[0]).any()
    rare = resampled_means([np.array([1.0, 3.0]), first], scenes=[np.array(["1", "2"]), scenes[0]])
    assert 0.05 < np.isnan(rare[0]).mean() < 0.25
    assert percentile_interval(rare[0]) == (1, 3)


def test_the_order_of_pictures_does_not_matter_and_the_seed_is_fixed():
    values, order = drawn(3, 40), np.random.default_rng(1).permutation(40)
    assert mean_interval(values, resamples=500) == mean_interval(values[:, order], resamples=500)
    assert mean_interval(values, resamples=500) != mean_interval(values, resamples=500, seed=1)
    pair = drawn(40), drawn(40, seed=1)
    scenes = np.arange(40) // 3
    assert mean_interval(values, scenes=scenes) == mean_interval(
        values[:, order], scenes=scenes[order]
    )
    there, again = paired_difference(*pair), paired_difference(*(side[order] for side in pair))
    assert there[1:] == again[1:]


def test_large_inputs_are_resampled_in_blocks(monkeypatch):
    values = drawn(30)
    monkeypatch.setattr("declip_pipeline.metrics.resampling.DRAWS_AT_ONCE", 7 * 30)
    means = resampled_means([values], resamples=2_000)[0]
    assert means.shape == (2_000,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert len(np.unique(means)) > 1_990


def test_of_too_few_pictures_there_is_none():
    for values in ([], [3.0], [3.0, NAN]):
        assert np.isnan(mean_interval(np.asarray(values))).all()
    assert mean_interval(np.array([3.0, 3.0, NAN])) == (3.0, 3.0)
    assert not list(resampled_counts(np.array(["one", "one"])))
    one = paired_difference(np.array([3.0]), np.array([1.0]))
    assert one.value == 2 and np.isnan(one.interval).all() and np.isnan(one.p_value)
    assert np.isnan(paired_difference(np.array([]), np.array([])).value)


def test_pictures_that_are_nan_are_left_out_of_both_sides():
    first, second = drawn(30), drawn(30, seed=1)
    expected = paired_difference(first[2:], second[2:])
    first[0] = second[1] = NAN
    assert paired_difference(first, second) == expected


def test_what_both_sides_share_drops_out_of_a_paired_difference():
    hard = 30 * drawn(200)
    found = paired_difference(hard + 1 + drawn(200, seed=1), hard + drawn(200, seed=2))
    differences = 1 + drawn(200, seed=1) - drawn(200, seed=2)
    half = 1.96 * differences.std() / np.sqrt(200)
    assert found.value == pytest.approx(differences.mean())
    expected = (found.value - half, found.value + half)
    assert found.interval == pytest.approx(expected, abs=0.08 * half)
    assert found.p_value == pytest.approx(2 / 10_001)


def test_the_p_value_is_that_of_the_t_test():
    differences = 0.12 + drawn(300)
    found = paired_difference(differences, np.zeros(300))
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    same = drawn(20)
    assert paired_difference(same, same) == Difference(0.0, Interval(0.0, 0.0), 1.0)
    assert two_sided_p_value(np.array([1.0, 1.0, -1.0])) == 1.0
    assert two_sided_p_value(np.array([1.0] * 99)) == 0.02


def test_sides_may_have_seeds_of_their_own():
    first, second = drawn(4, 60) + 2, drawn(60, seed=1)
    found = paired_difference(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.interval.low < found.value < found.interval.high


def test_resamples_keep_their_classes():
    labels = np.array([1, 1, 0, 0, 0, 1])
    (counts,) = resampled_counts(np.arange(6), strata=labels)
    assert counts.shape == (2_000, 6)
    assert set(counts[:, labels == 1].sum(axis=1)) == set(counts[:, labels == 0].sum(axis=1)) == {3}
    (again,) = resampled_counts(np.arange(6), strata=labels)
    assert (counts == again).all()
    (without,) = resampled_counts(np.arange(6))
    assert len(set(without[:, labels == 1].sum(axis=1))) > 3
    # A scene of both kinds is neither's.
    scenes = np.array(["a", "b", "a", "b", "c", "d"])
    (joint,) = resampled_counts(scenes, strata=labels)
    assert (joint[:, 0] == joint[:, 2]).all() and (joint[:, 1] == joint[:, 3]).all()
    assert (joint[:, 0] + joint[:, 1] == 2).all() and (joint[:, 4:] == 1).all()


def test_a_statistic_is_that_of_scipy(monkeypatch):
    values = np.random.default_rng(4).normal(size=60)
    theirs = stats.bootstrap(
        (values,), np.std, n_resamples=4_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    monkeypatch.setattr("declip_pipeline.metrics.resampling.DRAWS_AT_ONCE", 700 * 60)
    counts = np.concatenate(list(resampled_counts(np.arange(60), resamples=4_000)))
    assert len(counts) == 4_000
    drawn = [np.std(np.repeat(values, row)) for row in counts.astype(int)]
    ours = percentile_interval(np.array(drawn))
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_resamples_without_a_value_are_left_out_until_they_are_half():
    assert percentile_interval(np.array([1.0, 1.0, NAN])) == (1.0, 1.0)
    assert np.isnan(percentile_interval(np.array([1.0, NAN]))).all()


def test_shapes_must_fit():
    with pytest.raises(InputError, match=r"shapes \[\(1, 3\), \(1, 2\)\]; expected the same ima"):
        paired_difference(np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match=r"expected \(images,\) or \(seeds, images\)"):
        mean_interval(np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match=r"groups have \[3\] images and \[2\] scenes; expected"):
        mean_interval(np.zeros(3), scenes=np.zeros(2))
    with pytest.raises(InputError, match=r"arrays have \[2, 3\] rows; expected one row for each"):
        next(resampled_counts(np.zeros(3), strata=np.zeros(2)))
