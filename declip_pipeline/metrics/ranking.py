"""Each image's pixels sorted once by their map value, for every metric that sweeps a threshold."""

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
    """What some thresholds call fake; all (thresholds,), int32.

    `called`: how many pixels; `found`: how many of them are fake; `certain` and `certain_found`:
    the same of the pixels that are certainly fake or certainly real.
    """

    called: Tensor
    found: Tensor
    certain: Tensor
    certain_found: Tensor


@dataclass(frozen=True)
class Ranking:
    """What is called fake by the thresholds worth a look: those at a value that a fake pixel has.

    A threshold between two such values calls more real pixels fake than the higher of them and
    finds no more fake ones, so no metric gains there.

    `at_fakes`: the counts at these thresholds, image after image, in each the highest first;
    `image`: (thresholds,) int32, whose each is; `tied`: (thresholds,) int32, how many fake pixels
    have exactly its value. `at_fixed`: the counts at one threshold for each image; `in_all`: those
    of all its pixels; `varied`: (images,) bool, whether its certain pixels differ in value.
    """

    at_fakes: Counts
    image: Tensor
    tied: Tensor
    at_fixed: Counts
    in_all: Counts
    varied: Tensor


def sort_rows(keys: Tensor) -> Tensor:
    """`keys` (N, pixels) int32 with each row in rising order; `keys` may be overwritten."""
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


def rank_pixels(maps: Tensor, masks: Tensor, certain: Tensor, threshold: float = 0.5) -> Ranking:
    """Sort each image's pixels by falling map value, and count down the ranking.

    A pixel's value and its two truth bits share one 32-bit key, so one sort of plain integers
    does and no order is stored or looked up: values in [0, 1] need 30 bits.

    maps: (N, H, W) float32 in [0, 1]. masks: (N, H, W) bool, True = fake.
    certain: (N, H, W) bool, True where a pixel is certainly fake or certainly real.
    threshold: the fixed one, in [0, 1]; it calls a pixel fake when its value is greater.
    """
    keys = _keys(maps).add_(masks.byte().mul_(FAKE).add_(certain)).flatten(1)
    return _count_down(sort_rows(keys), _keys(maps.new_tensor(threshold)))


def _keys(values: Tensor) -> Tensor:
    bits = (values + 0.0).view(torch.int32)  # -0.0 becomes 0.0, whose bits are 0
    # Centred on zero, four times the bit pattern still fits into 32 bits with its sign.
    return bits.neg_().add_(BITS_OF_ONE // 2).mul_(4)


def _count_down(keys: Tensor, fixed: Tensor) -> Ranking:
    n, pixels = keys.shape
    images = torch.arange(n, dtype=torch.int32, device=keys.device)
    # A zero before the first, so that the place `called` holds the count of that many pixels.
    certain = F.pad((keys & CERTAIN).cumsum(1, dtype=torch.int32), (1, 0))

    # All else is counted at the fake pixels. Among equal values they come last, so at the last
    # of them every pixel of that value has been passed. Indexing with brackets would take six
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
        """`passed`: how many fake pixels of this and of the earlier images have been passed."""
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
    return Ranking(
        at_fakes=counts(image, places.index_select(0, ends) + 1 - image * pixels, ends + 1),
        image=image,
        tied=ends.diff(prepend=ends.new_tensor([-1])),
        at_fixed=counts(images, called_at_fixed, passed_at_fixed),
        in_all=counts(images, torch.full_like(images, pixels), stops),
        varied=_varied(keys, certain),
    )


def _varied(keys: Tensor, certain: Tensor) -> Tensor:
    all_certain = certain[:, -1:]
    first_and_last = torch.cat([torch.ones_like(all_certain), all_certain], dim=1)
    places = (torch.searchsorted(certain, first_and_last) - 1).clamp(0, keys.shape[1] - 1)
    values = keys.gather(1, places) >> 2
    return (values[:, 0] != values[:, 1]) & (all_certain[:, 0] > 0)
