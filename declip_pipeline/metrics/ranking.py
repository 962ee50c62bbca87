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

    Thresholds are ordered by image and then fall. From one to the next, F1 rises unless real pixels
    lie between: only the last one before real pixels, a peak, can be the best of its image.

    Attributes:
        called: (thresholds,) int32, number of pixels that are called fake.
        found: (thresholds,) int32, number of those that are fake.
        tied: (thresholds,) int32, number of fake pixels with exactly this value.
        thresholds: (images,) int64, number of thresholds of each image.
        at_peaks: Counts at the peaks, and at each image's last threshold that does not call all
            pixels fake, and its last that does not call all certain pixels fake.
        peaks: (images,) int64, number of thresholds of each image in `at_peaks`.
        lost_pairs: (images,) float64, number of pairs of a fake and a real pixel in which the real
            one has the higher value; pairs of one value count half.
        at_fixed: Counts of each image at one fixed threshold.
        in_all: Counts of each image over all its pixels.
        varied: (images,) bool, whether the image's certain pixels differ in value.
        highest: (images, top) float32, the highest values of each image, falling.
    """

    called: Tensor
    found: Tensor
    tied: Tensor
    thresholds: Tensor
    at_peaks: Counts
    peaks: Tensor
    lost_pairs: Tensor
    at_fixed: Counts
    in_all: Counts
    varied: Tensor
    highest: Tensor


def sort_rows(keys: Tensor) -> Tensor:
    """Return `keys` (N, pixels) int32 with each row sorted; `keys` may be overwritten."""
    if keys.device.type != "cpu":
        return torch.sort(keys, dim=1).values
    # A row of 65,536 takes 0.4 ms alone, 3.0 ms as a part of several, 1.4 ms by numpy; one of
    # 16,384 takes 0.65, 0.65 and 0.25 ms (2 cores of a Zen 4 EPYC, numpy 2.4, torch 2.14). There
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


def _places(flags: Tensor) -> Tensor:
    """Return the indices at which `flags` (N,) bool are True, int32."""
    if flags.device.type != "cpu":
        return flags.nonzero()[:, 0].int()
    # On a CPU faster than torch.
    return torch.from_numpy(np.flatnonzero(flags.numpy())).int()


def _count_down(keys: Tensor, fixed: Tensor, top: int) -> Ranking:
    n, pixels = keys.shape
    images = torch.arange(n, dtype=torch.int32, device=keys.device)
    # With a leading zero, so that index `called` holds the count among that many pixels.
    certain = F.pad((keys & CERTAIN).cumsum(1, dtype=torch.int32), (1, 0))

    # All other counts are taken at the fake pixels. Among equal values they come last, so that at
    # the last of them every pixel of that value has been passed. Indexing with brackets takes six
    # times as long as index_select on a CPU.
    places = _places((keys.flatten() & FAKE).bool())
    fakes = keys.flatten().index_select(0, places)
    certain_fakes = F.pad((fakes & CERTAIN).cumsum(0, dtype=torch.int32), (1, 0))
    stops = torch.searchsorted(places, (images + 1) * pixels, out_int32=True)
    starts = F.pad(stops, (1, 0))[:-1]

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

    ends = _places(_changes(fakes >> 2, stops))
    threshold_stops = torch.searchsorted(ends, stops, out_int32=True)
    thresholds = threshold_stops.diff(prepend=threshold_stops.new_zeros(1))
    end_places = places.index_select(0, ends)
    called = end_places + 1 - torch.repeat_interleave(images * pixels, thresholds)
    found = ends + 1 - torch.repeat_interleave(starts, thresholds)
    tied = ends.diff(prepend=ends.new_tensor([-1]))

    is_peak = _changes(called - found, threshold_stops)
    # No metric considers a threshold at which all is called fake: the last one before it counts.
    first_certain, last_certain = _bounds(certain)
    all_certain = torch.searchsorted(end_places, images * pixels + last_certain, out_int32=True)
    last_before = torch.cat([threshold_stops - 2, all_certain - 1])
    is_peak[last_before[last_before >= 0].long()] = True
    at = _places(is_peak)
    peak_stops = torch.searchsorted(at, threshold_stops, out_int32=True)
    peaks = peak_stops.diff(prepend=peak_stops.new_zeros(1))
    peak_image = torch.repeat_interleave(images, peaks)
    passed = ends.index_select(0, at) + 1
    at_peaks = counts(peak_image, called.index_select(0, at), passed)

    # All fake pixels since the last peak have the same real ones above them. Only those of the
    # first threshold since may be of one value with some.
    first = F.pad(at + 1, (1, 0))[:-1]
    tied_pairs = _tied_pairs(
        keys,
        peak_image,
        called.index_select(0, first),
        tied.index_select(0, first),
        fakes.index_select(0, ends.index_select(0, first)),
    )
    since = passed.diff(prepend=passed.new_zeros(1))
    above = at_peaks.called - at_peaks.found
    lost = sum_by_image(above.double().mul_(since), peaks.long()) - tied_pairs / 2

    called_at_fixed = torch.searchsorted(keys, fixed.expand(n, 1).contiguous(), out_int32=True)[
        :, 0
    ]
    passed_at_fixed = torch.searchsorted(places, images * pixels + called_at_fixed, out_int32=True)
    bounds = torch.stack([first_certain, last_certain], dim=1).clamp(0, pixels - 1)
    highest_and_lowest = keys.gather(1, bounds) >> 2
    return Ranking(
        called=called,
        found=found,
        tied=tied,
        thresholds=thresholds.long(),
        at_peaks=at_peaks,
        peaks=peaks.long(),
        lost_pairs=lost,
        at_fixed=counts(images, called_at_fixed, passed_at_fixed),
        in_all=counts(images, torch.full_like(images, pixels), stops),
        varied=(highest_and_lowest[:, 0] != highest_and_lowest[:, 1]) & (certain[:, -1] > 0),
        highest=_values(keys[:, :top]),
    )


def sum_by_image(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum of each image's values: (N,) float64, (images,) int64 to (images,) float64.

    On a CPU faster than `index_add`, in the same order.
    """
    # "unsafe" leaves out a check that fails where there are no images.
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def max_by_image(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the maximum of each image's values and 0; arguments as for `sum_by_image`."""
    return torch.segment_reduce(values, "max", lengths=lengths, initial=0, unsafe=True)


def _changes(values: Tensor, stops: Tensor) -> Tensor:
    """Return where the next value differs or is of another image: (N,) bool.

    `stops` (images,) are the ends of the images' values.
    """
    found = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[1:], values[:-1], out=found[:-1])
    found[(stops[stops > 0] - 1).long()] = True
    return found


def _bounds(certain: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of each image's first and last certain pixel, (images,) int64 each.

    Args:
        certain: (images, pixels + 1), number of certain pixels among so many.
    """
    in_all = certain[:, -1:]
    found = torch.searchsorted(certain, torch.cat([torch.ones_like(in_all), in_all], dim=1)) - 1
    return found[:, 0], found[:, 1]


def _tied_pairs(keys: Tensor, image: Tensor, called: Tensor, tied: Tensor, value: Tensor) -> Tensor:
    """Return the number of pairs of a fake and a real pixel of one value, (images,) float64.

    Args:
        keys: (images, pixels), sorted.
        image: (thresholds,), the image of each threshold.
        called: (thresholds,), number of pixels of its value or a higher one.
        tied: (thresholds,), number of fake pixels of its value.
        value: (thresholds,), a key with its value.
    """
    found = torch.zeros(len(keys), dtype=torch.float64, device=keys.device)
    # Fake pixels come last among those of one value, behind a real one if there is any.
    before = called - tied
    ahead = keys.flatten().index_select(0, image * keys.shape[1] + (before - 1).clamp(min=0))
    # Few values are those of fake and real pixels both: only for these the first one is looked for.
    shared = ((before > 0) & (ahead >> 2 == value >> 2)).nonzero()[:, 0]
    if len(shared):
        rows = image.index_select(0, shared)
        counts = torch.bincount(rows, minlength=len(keys))
        column = torch.arange(len(shared), device=keys.device) - (counts.cumsum(0) - counts)[rows]
        wanted = keys.new_zeros((len(keys), int(counts.max())))
        wanted[rows, column] = value.index_select(0, shared) & ~(CERTAIN | FAKE)
        first = torch.searchsorted(keys, wanted, out_int32=True)[rows, column]
        real = before.index_select(0, shared) - first
        found.index_add_(0, rows, real.double() * tied.index_select(0, shared))
    return found
