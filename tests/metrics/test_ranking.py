import numpy as np
import pytest
import torch

from declip_pipeline.metrics import ranking
from declip_pipeline.metrics.ranking import rank_pixels, sort_rows


def random_pixels(levels):
    """Five images of few values, so that many tie; one has no fake pixel, one no other."""
    generator = torch.Generator().manual_seed(levels)
    maps = torch.randint(levels + 1, (5, 9, 11), generator=generator) / levels
    masks = torch.rand(maps.shape, generator=generator) < 0.2
    certain = torch.rand(maps.shape, generator=generator) < 0.7
    masks[1], masks[3] = False, True
    certain[2] = False
    return maps, masks, certain


def best_called(heat_map, mask, sure):
    """Numbers of pixels called fake at the thresholds at which F1 may be the best of an image."""
    values = heat_map[mask].unique().flip(0)
    called = [int((heat_map >= value).sum()) for value in values]
    real = [int((heat_map[~mask] >= value).sum()) for value in values]
    found = {last for last, one, after in zip(called, real, real[1:], strict=False) if one != after}
    for counted in (torch.ones_like(mask), sure):
        parts = [(heat_map[counted] >= value).sum() < counted.sum() for value in values]
        found |= set(called[: sum(parts)][-1:])
    return found | set(called[-1:])


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("levels", [1, 4, 200])
def test_equals_counting_each_threshold(levels, threshold):
    maps, masks, certain = random_pixels(levels)
    ranked = rank_pixels(maps, masks, certain, threshold)

    def counted(counts, place: int, called: torch.Tensor, image: int) -> None:
        mask, sure = masks[image], certain[image]
        expected = (called, called & mask, called & sure, called & mask & sure)
        names = ("called", "found", "certain", "certain_found")
        assert [getattr(counts, name)[place].item() for name in names] == [
            pixels.sum().item() for pixels in expected
        ]

    place, passed_peaks = 0, 0
    for image in range(5):
        counted(ranked.at_fixed, image, maps[image] > threshold, image)
        counted(ranked.in_all, image, torch.ones(9, 11, dtype=torch.bool), image)
        assert ranked.varied[image] == (maps[image][certain[image]].unique().numel() > 1)
        fakes, reals = maps[image][masks[image]], maps[image][~masks[image]]
        own = fakes.unique().flip(0)
        assert ranked.thresholds[image] == len(own)
        for value in own:
            assert ranked.called[place] == (maps[image] >= value).sum()
            assert ranked.found[place] == (fakes >= value).sum()
            assert ranked.tied[place] == (fakes == value).sum()
            place += 1
        values = {int((maps[image] >= value).sum()): value for value in own}
        peaks = range(passed_peaks, passed_peaks + int(ranked.peaks[image]))
        passed_peaks = peaks.stop
        for peak in peaks:
            value = values[ranked.at_peaks.called[peak].item()]
            counted(ranked.at_peaks, peak, maps[image] >= value, image)
        needed = best_called(maps[image], masks[image], certain[image])
        assert needed <= set(ranked.at_peaks.called[peaks.start : peaks.stop].tolist())
        lost = (reals > fakes[:, None]).sum() + (reals == fakes[:, None]).sum() / 2
        assert ranked.lost_pairs[image] == lost
    assert place == len(ranked.called) == len(ranked.found) == len(ranked.tied)
    assert passed_peaks == len(ranked.at_peaks.called)


@pytest.mark.parametrize("pixels", [1, 300, 2**15 - 1, 2**15, 2**15 + 7])
def test_rows_are_sorted_alone_and_together(pixels):
    keys = np.random.default_rng(0).integers(-(2**31), 2**31 - 1, (3, pixels), dtype=np.int32)
    expected = np.sort(keys, axis=1)
    assert np.array_equal(sort_rows(torch.from_numpy(keys)), expected)


def test_the_way_of_sorting_on_a_device_ranks_the_same(monkeypatch):
    batch = random_pixels(50)
    here = rank_pixels(*batch)
    monkeypatch.setattr(ranking, "sort_rows", lambda keys: torch.sort(keys, dim=1).values)
    there = rank_pixels(*batch)
    assert torch.equal(here.called, there.called)
    assert torch.equal(here.at_peaks.certain_found, there.at_peaks.certain_found)
