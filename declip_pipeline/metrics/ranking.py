"""Ranking of an image's pixels by map value: one sort for all metrics that sweep a threshold."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# float32 numbers in [0, 1] are ordered as their bit patterns, which run from 0 to this (1.0).
BITS_OF_ONE = 0x3F800000
CERTAIN, FAKE = 1, 2

# From this many on torch sorts a single row of integers by its digits (its grain size; x86).
DIGIT_SORT_FROM = 2**15


@dataclass(frozen=True)
class Counts:
    """Pixel counts at each of several thresholds; all (thresholds,) int32.

    `called`: pixels that are called fake; `found`: those of them that are fake. `certain` and
    `certain_found`: the same counts over the certainly fake and certainly real pixels alone.
    """

    called: Tensor
    found: Tensor
    certain: Tensor
    certain_found: Tensor


@dataclass(frozen=True)
class Ranking:
    """Pixel counts at the thresholds that equal the value of a fake pixel.

    Other thresholds need no counts: a threshold between two such values calls more real pixels
    fake than the higher of them and finds no more fake ones, so that no metric is better there.

    Attributes:
        at_fakes: Counts at these thresholds, ordered by image and then by falling threshold.
        image: (thresholds,) int32, index of the image of each threshold.
        tied: (thresholds,) int32, number of fake pixels with exactly this value.
        real_tied: (thresholds,) int32, number of real pixels with exactly this value.
        at_fixed: Counts of each image at one fixed threshold.
        in_all: Counts of each image over all its pixels.
        varied: (images,) bool, whether the image's certain pixels differ in value.
        highest: (images, top) float32, the highest values of each image, falling.
    """

    at_fakes: Counts
    image: Tensor
    tied: Tensor
    real_tied: Tensor
    at_fixed: Counts
    in_all: Counts
    varied: Tensor
    highest: Tensor


def sort_rows(keys: Tensor) -> Tensor:
    """Return `keys` (N, pixels) int32 with each row sorted; `keys` may be overwritten."""
    if keys.device.type != "cpu":
        return torch.sort(keys, dim=1).values
    # A row of 65,536 takes 0.4 ms alone, 3.0 ms as a part of several, 1.4 ms by numpy; one of
    # 16,384 takes 0.65, 0.65 and 0.25 ms (2 cores of a Zen 4 EPYC, numpy 2.4, torch 2.15). There
    # numpy's AVX-512 sort is six times slower than its AVX2 one, which it takes on other machines.
    if keys.shape[1] < DIGIT_SORT_FROM:
        return torch.from_numpy(np.sort(keys.numpy(), axis=1))
    for row in keys:
        row.copy_(torch.sort(row).values)
    return keys


def rank_pixels(
    maps: Tensor, masks: Tensor, certain: Tensor, threshold: float = 0.5, top: int = 1
) -> Ranking:
    """Sort each image's pixels by falling map value and count along the ranking.

    A pixel's value and its two truth bits share one 32-bit key (values in [0, 1] need 30 bits), so
    that one sort of integers suffices and no permutation is stored.

    Args:
        maps: (N, H, W) float32 in [0, 1].
        masks: (N, H, W) bool, True = fake.
        certain: (N, H, W) bool, True where a pixel is certainly fake or certainly real.
        threshold: The fixed threshold, in [0, 1]; values greater than it are called fake.
        top: Number of an image's highest values to return.
    """
    keys = _keys(maps).add_(masks.byte().mul_(FAKE).add_(certain)).flatten(1)
    return _count_down(sort_rows(keys), _keys(maps.new_tensor(threshold)), top)


def _values(keys: Tensor) -> Tensor:
    """Return the map values of keys, float32."""
    return (BITS_OF_ONE // 2 - (keys >> 2)).view(torch.float32)


def _keys(values: Tensor) -> Tensor:
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0, whose bits are 0
    # Centred on zero, four times the bit pattern still fits into 32 bits with its sign.
    return bits.neg_().add_(BITS_OF_ONE // 2).mul_(4)


def _count_down(keys: Tensor, fixed: Tensor, top: int) -> Ranking:
    n, pixels = keys.shape
    images = torch.arange(n, dtype=torch.int32, device=keys.device)
    # With a leading zero, so that index `called` holds the count among that many pixels.
    certain = F.pad((keys & CERTAIN).cumsum(1, dtype=torch.int32), (1, 0))

    # All other counts are taken at the fake pixels. Among equal values they come last, so that at
    # the last of them every pixel of that value has been passed. Indexing with brackets takes six
    # times as long as index_select on a CPU.
    places = (keys.flatten() & FAKE).nonzero()[:, 0].int()
    fakes = keys.flatten().index_select(0, places)
    certain_fakes = F.pad((fakes & CERTAIN).cumsum(0, dtype=torch.int32), (1, 0))
    stops = torch.searchsorted(places, (images + 1) * pixels, out_int32=True)
    starts = F.pad(stops, (1, 0))[:-1]
    every_image = torch.repeat_interleave(images, stops - starts)

    last = torch.ones_like(fakes, dtype=torch.bool)
    last[:-1] = (fakes[1:] >> 2 != fakes[:-1] >> 2) | (every_image[1:] != every_image[:-1])
    ends = last.nonzero()[:, 0].int()
    image = every_image.index_select(0, ends)

    def counts(image: Tensor, called: Tensor, passed: Tensor) -> Counts:
        """Count; `passed` is the number of fake pixels passed in this and all earlier images."""
        start = starts.index_select(0, image)
        before = certain_fakes.index_select(0, start)
        return Counts(
            called=called,
            found=passed - start,
            certain=certain.flatten().index_select(0, image * (pixels + 1) + called),
            certain_found=certain_fakes.index_select(0, passed) - before,
        )

    called_at_fixed = torch.searchsorted(keys, fixed.expand(n, 1).contiguous(), out_int32=True)[
        :, 0
    ]
    passed_at_fixed = torch.searchsorted(places, images * pixels + called_at_fixed, out_int32=True)
    called = places.index_select(0, ends) + 1 - image * pixels
    tied = ends.diff(prepend=ends.new_tensor([-1]))
    return Ranking(
        at_fakes=counts(image, called, ends + 1),
        image=image,
        tied=tied,
        real_tied=_real_tied(keys, image, called - tied, fakes.index_select(0, ends)),
        at_fixed=counts(images, called_at_fixed, passed_at_fixed),
        in_all=counts(images, torch.full_like(images, pixels), stops),
        varied=_varied(keys, certain),
        highest=_values(keys[:, :top]),
    )


def _real_tied(keys: Tensor, image: Tensor, before: Tensor, value: Tensor) -> Tensor:
    """Return the number of real pixels that have the value of each threshold, int32.

    Args:
        keys: (N, pixels), sorted.
        image: (thresholds,), the image of each threshold.
        before: (thresholds,), the number of pixels ahead of the fake ones with its value.
        value: (thresholds,), a key with its value.
    """
    found = torch.zeros_like(before)
    ahead = keys.flatten().index_select(0, image * keys.shape[1] + (before - 1).clamp(min=0))
    # Few values are those of fake and real pixels both: only for these the first one is looked for.
    shared = ((before > 0) & (ahead >> 2 == value >> 2)).nonzero()[:, 0]
    if len(shared):
        rows = image.index_select(0, shared)
        counts = torch.bincount(rows, minlength=len(keys))
        column = torch.arange(len(shared), device=keys.device) - (counts.cumsum(0) - counts)[rows]
        wanted = keys.new_zeros((len(keys), int(counts.max())))
        wanted[rows, column] = value.index_select(0, shared) >> 2 << 2
        first = torch.searchsorted(keys, wanted, out_int32=True)[rows, column]
        found[shared] = before.index_select(0, shared) - first
    return found


def _varied(keys: Tensor, certain: Tensor) -> Tensor:
    all_certain = certain[:, -1:]
    first_and_last = torch.cat([torch.ones_like(all_certain), all_certain], dim=1)
    places = (torch.searchsorted(certain, first_and_last) - 1).clamp(0, keys.shape[1] - 1)
    values = keys.gather(1, places) >> 2
    return (values[:, 0] != values[:, 1]) & (all_certain[:, 0] > 0)
