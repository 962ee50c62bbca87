"""Metrics of single images against scikit-learn, on random maps and on degenerate ones."""

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    matthews_corrcoef,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

from declip_pipeline.metrics.localization import TOP_SHARE, localization_metrics


def random_case(number):
    """A map that knows a little of its mask; of every third one many values tie."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(1, 48, 2)
    mask = rng.random((height, width)) < rng.uniform(0.02, 0.9)
    if number % 2:
        mask = maximum_filter(mask & (rng.random(mask.shape) < 0.05), 9)
    heat_map = rng.uniform(0, 0.8) * mask + rng.random(mask.shape) * 0.2
    levels = (None, 255, 6)[number % 3]
    return (heat_map if levels is None else (heat_map * levels).round() / levels), mask


def degenerate_cases():
    """Fifty cases by name: one class, constant maps, ties, one pixel, masks inside the band."""
    found = {}
    square = np.zeros((24, 31), bool)
    square[6:19, 4:25] = True
    masks = {
        "no fake": np.zeros((24, 31), bool),
        "all fake": np.ones((24, 31), bool),
        "square": square,
        "a fake pixel": np.arange(24 * 31).reshape(24, 31) == 400,
        "a real pixel": np.arange(24 * 31).reshape(24, 31) != 400,
        "border only": ~np.pad(np.ones((22, 29), bool), 1),
    }
    noise = np.random.default_rng(0).random((24, 31))
    for name, mask in masks.items():
        maps = {
            "zero": np.zeros(mask.shape),
            "one": np.ones(mask.shape),
            "half": np.full(mask.shape, 0.5),
            "the mask": mask * 1.0,
            "its opposite": 1.0 - mask,
            "two values": 0.4 + 0.2 * (noise > 0.5),
            "noise": noise,
        }
        found |= {f"{name}, {map_name}": (one, mask) for map_name, one in maps.items()}
    for value in (0.0, 0.5, 0.7, 1.0):
        for fake in (True, False):
            found[f"1x1, {value}, {fake}"] = (np.full((1, 1), value), np.full((1, 1), fake))
    return found


DEGENERATE = degenerate_cases()


def of_scikit_learn(heat_map, mask):
    """The same metrics by scikit-learn; NaN where it has none."""
    heat_map = heat_map.astype(np.float32)
    values, truth = heat_map.ravel(), mask.ravel()
    called = values > 0.5
    fake, real = minimum_filter(mask, 15), ~maximum_filter(mask, 11)
    certain = (fake | real).ravel()
    thresholds = [np.float32(0.5), *np.unique(values)]
    top = max(1, round(TOP_SHARE * values.size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "iou": 100 * jaccard_score(truth, called, zero_division=1.0),
            "ap": average_precision_score(truth, values) if truth.any() else 0.0,
            "f1": f1_score(truth, called, zero_division=1.0),
            "f1_optimal": max(f1_score(truth, values > t, zero_division=1.0) for t in thresholds),
            "f1_fixed": f1_score(fake.ravel()[certain], called[certain], zero_division=1.0)
            if certain.any()
            else 1.0,
            "auc": roc_auc_score(truth, values) if 0 < truth.mean() < 1 else np.nan,
            "mcc": matthews_corrcoef(truth, called),
            "precision": precision_score(truth, called, zero_division=0.0),
            "recall": recall_score(truth, called, zero_division=0.0),
            "found_pixels": (called & truth).sum(),
            "called_pixels": called.sum(),
            "fake_pixels": truth.sum(),
            "score_max": values.max(),
            "score_top": np.sort(values)[-top:].astype(np.float64).mean(),
        }


def assert_equal(heat_map, mask):
    ours = localization_metrics(
        torch.from_numpy(heat_map.astype(np.float32))[None], torch.from_numpy(mask)[None]
    )
    for name, theirs in of_scikit_learn(heat_map, mask).items():
        # IoU has the reference's epsilon.
        exact = 1e-5 if name == "iou" else 1e-7
        assert ours[name].item() == pytest.approx(theirs, abs=exact, nan_ok=True), name


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_maps_have_the_metrics_of_scikit_learn(first):
    for number in range(first, first + 20):
        assert_equal(*random_case(number))


def test_there_are_fifty_degenerate_cases():
    assert len(DEGENERATE) == 50


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_maps_have_the_metrics_of_scikit_learn(name):
    assert_equal(*DEGENERATE[name])


def test_degenerate_maps_in_one_batch_have_the_same_metrics():
    cases = [case for case in DEGENERATE.values() if case[1].shape == (24, 31)]
    maps, masks = (torch.from_numpy(np.stack(some)) for some in zip(*cases, strict=True))
    together = localization_metrics(maps, masks)
    for number in range(len(cases)):
        alone = localization_metrics(maps[number][None], masks[number][None])
        for name, values in alone.items():
            torch.testing.assert_close(
                together[name][number], values[0], equal_nan=True, rtol=0, atol=0
            )


def test_the_best_f1_is_that_of_the_curve_unless_all_is_called_fake():
    for number in range(30):
        heat_map, mask = random_case(3 * number)  # of these no values tie
        if not 0 < mask.mean() < 1:
            continue
        values = heat_map.astype(np.float32).ravel()
        precision, recall, _ = precision_recall_curve(mask.ravel(), values)
        curve = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        found = localization_metrics(
            torch.from_numpy(values).view(1, *mask.shape), torch.from_numpy(mask)[None]
        )["f1_optimal"]
        # The first point of the curve calls all pixels fake.
        assert found.item() == pytest.approx(curve[1:].max(), abs=1e-7)


@pytest.mark.parametrize("share", [0.25, 1.0, 1e-9])
def test_a_share_of_the_highest_values_is_averaged(share):
    heat_map = torch.linspace(0, 1, 16).view(1, 4, 4)
    found = localization_metrics(heat_map, heat_map > 0.9, top_share=share)["score_top"]
    count = max(1, round(16 * share))
    assert found.item() == pytest.approx(heat_map.flatten()[-count:].mean().item())
