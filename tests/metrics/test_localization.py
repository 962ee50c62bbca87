import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import average_precision_score

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.metrics import PIXEL_COUNTS
from declip_pipeline.metrics import localization
from declip_pipeline.metrics.localization import (
    certain_regions,
    count_pixels,
    has_fake,
    intersection_over_union,
    localization_metrics,
    widen,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "metrics.json").read_text())["localization"]
NAMES = [case["name"] for case in CASES]
CONSTANT = {"constant", "all below", "all above", "empty mask, quiet"}


@pytest.fixture(scope="module")
def golden() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(GOLDEN / "metrics.npz") as arrays:
        return torch.from_numpy(arrays["predictions"]), torch.from_numpy(arrays["masks"]) > 0


@pytest.fixture(scope="module")
def measured(golden):
    return localization_metrics(*golden)


def random_batch(n: int, height: int, width: int, levels: int | None = None, seed: int = 0):
    """Maps (rounded to `levels` values, so that many tie) that know a little of their masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    for i in range(n):
        masks[i, height // 4 : height // 2 + i + 1, width // 5 : width // 2 + 2 * i + 1] = True
    maps = 0.3 * masks + 0.7 * torch.rand(n, height, width, generator=generator)
    return (maps if levels is None else (maps * levels).round() / levels), masks


@pytest.mark.parametrize("index", range(len(CASES)), ids=NAMES)
def test_equals_the_reference(measured, index):
    case = CASES[index]
    for name in ("iou", "f1_best", "f1_fixed", "ap"):
        if not np.isnan(case[name]):
            assert measured[name][index].item() == pytest.approx(case[name], abs=1e-5, rel=0)


def test_all_values_are_defined_where_the_reference_has_nan(measured):
    assert {c["name"] for c in CASES if np.isnan(c["f1_best"])} == CONSTANT
    auc = measured["auc"]
    others = [values for name, values in measured.items() if name != "auc"]
    assert all(values.isfinite().all() for values in others)
    # Without a fake pixel, or a real one, there is none.
    assert {NAMES[index] for index in auc.isnan().nonzero()[:, 0]} == {
        *("empty mask, quiet", "empty mask, noisy", "full mask")
    }


@pytest.mark.parametrize(
    ("name", "f1"),
    [("constant", 0), ("all below", 0), ("all above", 0.656), ("empty mask, quiet", 1)],
)
def test_best_f1_of_a_constant_map_is_its_f1_at_the_fixed_threshold(measured, name, f1):
    index = NAMES.index(name)
    assert measured["f1_best"][index] == measured["f1_fixed"][index]
    assert measured["f1_best"][index].item() == pytest.approx(f1, abs=1e-6)


def test_constant_is_judged_without_the_ignored_band():
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 20:44, 20:44] = True
    maps = torch.full((1, 64, 64), 0.8)
    maps[:, 20, 20] = 0.1  # on the outline, so nobody looks at it
    values = localization_metrics(maps, masks)
    assert values["f1_best"] == values["f1_fixed"] > 0.05


def test_images_without_a_fake_pixel_are_told_apart(golden):
    without = {NAMES[i] for i in (~has_fake(golden[1])).nonzero()[:, 0]}
    assert without == {"empty mask, quiet", "empty mask, noisy"}


@pytest.mark.parametrize("levels", [None, 255, 7, 1])
def test_average_precision_equals_scikit_learn(levels):
    maps, masks = random_batch(4, 37, 53, levels)
    ours = localization_metrics(maps, masks)["ap"]
    for i in range(4):
        theirs = average_precision_score(masks[i].flatten(), maps[i].flatten())
        assert ours[i].item() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 5])
def test_best_f1_equals_trying_every_threshold(levels):
    maps, masks = random_batch(3, 30, 41, levels)
    ours = localization_metrics(maps, masks)["f1_best"]
    fake, real = localization.certain_regions(masks)
    for i in range(3):
        scores = []
        for threshold in maps[i][fake[i] | real[i]].unique()[:-1]:
            called = maps[i] > threshold
            hits = (called & fake[i]).sum().item()
            wrong = (called & real[i]).sum().item() + (~called & fake[i]).sum().item()
            scores.append(2 * hits / max(2 * hits + wrong, 1))
        assert ours[i].item() == pytest.approx(max(scores), abs=1e-12)


@pytest.mark.parametrize("pixels", [1, 2000, 2**20])
def test_a_batch_equals_its_images_one_by_one(monkeypatch, pixels):
    maps, masks = random_batch(5, 31, 29, levels=40)
    one_by_one = [localization_metrics(maps[i : i + 1], masks[i : i + 1]) for i in range(5)]
    monkeypatch.setattr(localization, "PIXELS_AT_ONCE", pixels)
    for name, values in localization_metrics(maps, masks).items():
        assert values.dtype == (torch.int64 if name in PIXEL_COUNTS else torch.float64)
        assert values.tolist() == [one[name].item() for one in one_by_one]


def test_pictures_shared_out_to_threads_give_the_same(monkeypatch, two_threads):
    maps, masks = random_batch(5, 31, 29, levels=40)
    together = localization_metrics(maps, masks)
    monkeypatch.setattr(localization, "PIXELS_OF_A_PART", 2000)
    with torch.inference_mode():
        of_inference = localization_metrics(maps.clone(), masks.clone())
    with_gradient = localization_metrics(maps.clone().requires_grad_(), masks)
    for values in (of_inference, with_gradient):
        assert all(torch.equal(values[name], together[name]) for name in together)
        assert not any(tensor.requires_grad for tensor in values.values())


def test_a_value_that_is_no_probability_is_refused_from_a_thread(monkeypatch, two_threads):
    maps, masks = random_batch(4, 8, 8)
    maps[3, 0, 0] = 2
    monkeypatch.setattr(localization, "PIXELS_OF_A_PART", 64)
    with pytest.raises(InputError, match="values from .* to 2; expected probabilities"):
        localization_metrics(maps, masks)


def test_a_single_fake_pixel_found_and_missed():
    masks = torch.ones(2, 1, 1, dtype=torch.bool)
    values = localization_metrics(torch.tensor([0.9, 0.1]).view(2, 1, 1), masks)
    assert values["iou"].tolist() == pytest.approx([100, 0], abs=1e-5)
    assert values["f1_fixed"].tolist() == pytest.approx([1, 0])
    assert values["f1_best"].tolist() == pytest.approx([1, 0])
    assert values["ap"].tolist() == [1, 1]


def test_a_picture_smaller_than_the_windows_lies_in_the_band():
    masks = torch.zeros(1, 3, 5, dtype=torch.bool)
    masks[0, 1, 2] = True
    maps = torch.zeros(1, 3, 5)
    maps[0, 1, 2] = maps[0, 0, 0] = 0.9
    values = localization_metrics(maps, masks)
    assert values["iou"].item() == pytest.approx(50)
    assert values["ap"].item() == 0.5
    assert values["f1_best"].item() == values["f1_fixed"].item() == 1  # nothing to judge


def test_no_images_give_no_numbers():
    values = localization_metrics(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4, dtype=torch.bool))
    assert [tuple(v.shape) for v in values.values()] == [(0,)] * len(values)


def test_values_at_both_ends_of_the_range_are_ordered():
    tiny = np.nextafter(np.float32(0), np.float32(1))
    below_one = np.nextafter(np.float32(1), np.float32(0))
    maps = torch.tensor([[[1.0, below_one, tiny, 0.0, -0.0]]])
    for n_fake, expected in ((1, 1.0), (2, 1.0), (3, 1.0)):
        masks = torch.arange(5).view(1, 1, 5) < n_fake
        assert localization_metrics(maps, masks)["ap"].item() == expected
    zeros_tie = torch.tensor([[[False, False, False, False, True]]])
    assert localization_metrics(maps, zeros_tie)["ap"].item() == pytest.approx(1 / 5)
    assert localization_metrics(maps.flip(2), zeros_tie.flip(2))["ap"].item() == pytest.approx(0.2)


def test_half_precision_maps_and_rounding_beyond_one_are_taken():
    maps, masks = random_batch(2, 20, 20, levels=16)
    expected = localization_metrics(maps, masks)
    for name, values in localization_metrics(maps.half(), masks).items():
        assert torch.equal(values, expected[name])
    assert localization_metrics(maps * 1.00001 - 0.000005, masks)["ap"].isfinite().all()


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (
            torch.zeros(2, 4, 4),
            torch.zeros(2, 4, 5, dtype=torch.bool),
            r"maps have shape \(2, 4, 4\) and masks \(2, 4, 5\); expected the same "
            r"\(images, height, width\) for both; resize the maps to their masks first",
        ),
        (torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool), r"maps have shape \(4, 4\)"),
        (torch.zeros(1, 0, 4), torch.zeros(1, 0, 4, dtype=torch.bool), r"shape \(1, 0, 4\)"),
        (
            torch.zeros(1, 4, 4),
            torch.zeros(1, 4, 4),
            "masks are torch.float32; expected torch.bool, True where fake",
        ),
        (
            torch.zeros(1, 4, 4, dtype=torch.uint8),
            torch.zeros(1, 4, 4, dtype=torch.bool),
            "maps are torch.uint8; expected floating point values",
        ),
        (
            torch.linspace(-3, 5, 16).view(1, 4, 4),
            torch.zeros(1, 4, 4, dtype=torch.bool),
            r"values from -3 to 5; expected probabilities in \[0, 1\]; apply the sigmoid first",
        ),
        (
            torch.full((1, 4, 4), float("nan")),
            torch.zeros(1, 4, 4, dtype=torch.bool),
            "values from nan to nan",
        ),
        (
            torch.zeros(1, 4, 4),
            torch.zeros(1, 4, 4, dtype=torch.bool, device="meta"),
            "maps are on cpu and masks on meta; move them to one device",
        ),
    ],
)
def test_wrong_input_is_refused_in_words(maps, masks, message):
    with pytest.raises(InputError, match=message):
        localization_metrics(maps, masks)


def test_iou_by_hand():
    maps = torch.tensor([[[0.9, 0.9, 0.1, 0.5]], [[0.0, 0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[True, False, True, True]], [[False] * 4]])
    # One of four in the union; 0.5 is not greater than the threshold; two empty sets agree.
    assert intersection_over_union(maps, masks).tolist() == pytest.approx([25, 100])


def test_iou_of_logits_and_probabilities_agree():
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = logits.roll(3, 2) > 0.2
    of_logits = intersection_over_union(logits, masks, threshold=0.0)
    assert torch.equal(of_logits, intersection_over_union(logits.sigmoid(), masks))
    assert of_logits.dtype == torch.float64


def test_iou_of_soft_masks_are_fake_above_a_half():
    soft = torch.tensor([[[0.2, 0.5, 0.500001, 1.0]]])
    maps = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert intersection_over_union(maps, soft).item() == 100


def test_iou_refuses_wrong_shapes():
    with pytest.raises(InputError, match=r"shape \(1, 4, 4\) and masks \(2, 4, 4\)"):
        intersection_over_union(torch.zeros(1, 4, 4), torch.zeros(2, 4, 4))


REGION_SHAPES = [(1, 1), (3, 5), (1, 40), (7, 7), (14, 16), (40, 61)]


@pytest.mark.parametrize("shape", REGION_SHAPES)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_certain_regions_equal_square_filters(shape, share):
    masks = np.random.default_rng(0).random((3, *shape)) < share
    masks[1, : shape[0] // 2] = True
    fake, real = certain_regions(torch.from_numpy(masks))
    for i, mask in enumerate(masks):
        assert np.array_equal(fake[i], minimum_filter(mask, 15))
        assert np.array_equal(real[i], ~maximum_filter(mask, 11))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 15, 17])
def test_widen_for_every_odd_size(size):
    mask = np.zeros((25, 31), dtype=bool)
    mask[[0, 12, 20], [0, 15, 30]] = True
    ours = widen(torch.from_numpy(mask)[None], size)[0]
    assert np.array_equal(ours, maximum_filter(mask, size))


def test_certain_regions_are_disjoint_and_leave_masks_unchanged():
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    before = masks.clone()
    fake, real = certain_regions(masks)
    assert torch.equal(masks, before)
    assert fake.sum() == 6 * 6
    assert (~real).sum() == 30 * 30
    assert not (fake & real).any()


def test_pixels_are_counted_by_image():
    flags = torch.rand((3, 300, 250), generator=torch.Generator().manual_seed(0)) < 0.4
    found = count_pixels(flags)
    assert found.dtype == torch.int64
    assert found.tolist() == [int(one.sum()) for one in flags]
