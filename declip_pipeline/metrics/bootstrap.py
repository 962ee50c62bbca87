"""Bootstrap intervals of 95% of means, over images and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from declip_pipeline.compute import generator
from declip_pipeline.errors import InputError
from declip_pipeline.metrics.resampling import CONFIDENCE, drawn_deviations, drawn_sums

RESAMPLES = 10_000


class Interval(NamedTuple):
    """Both ends of an interval, in the unit of its mean; NaN where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


class Difference(NamedTuple):
    """Difference of two means on the same images, its interval, and a two-sided p-value."""

    value: float
    interval: Interval
    p_value: float


def mean_interval(
    values: np.ndarray,
    *,
    scenes: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of the mean of `values`, of images or of images under several seeds.

    values: (images,), or (seeds, images) with the same image in each column. Images that
    are NaN under any seed are left out. The order of the images does not matter. scenes:
    (images,), what each shows; all images of a scene are drawn together, since they tell the
    same. None: each is a scene of its own. Of fewer than two scenes there is no interval:
    (NaN, NaN).
    Raises: InputError for another shape.
    Source: the percentile interval, Efron and Tibshirani, An Introduction to the Bootstrap (1993),
    chapter 13; drawing whole groups, Davison and Hinkley, Bootstrap Methods and their Application
    (1997), section 3.8. Seeds are resampled by themselves, and what they deviate adds to what
    images do: two-way, after the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1,
    2007), with the seeds' part widened for how few there are (`drawn_deviations`). What a seed does
    to single images counts in both parts, so an interval over seeds errs towards a wide one; of
    two or three seeds it is as wide as two or three values leave it.
    """
    groups = None if scenes is None else [scenes]
    means = resampled_means([values], scenes=groups, resamples=resamples, seed=seed)
    return percentile_interval(means[0])


def paired_means(
    sides: Sequence[np.ndarray],
    *,
    scenes: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> "PairedStatistics":
    """Return the means of several sides, all of the same images, and those of their resamples.

    sides, scenes: each side as in `mean_interval`, with the same image in each column of all; each
    may have several seeds of its own. Images that are NaN under any are left out of all. Each
    resample takes the same images for all sides, so what makes an image hard for all drops out of
    a difference.
    Raises: InputError for other shapes.
    Source: as `mean_interval`.
    """
    kept, chosen = _of_same_images(sides)
    if not chosen.any():
        none = np.full(len(kept), np.nan)
        return PairedStatistics(0, none, none[:, None])
    groups = None if scenes is None else [scenes[chosen]] * len(kept)
    means = resampled_means(kept, scenes=groups, resamples=resamples, seed=seed)
    return PairedStatistics(int(chosen.sum()), np.array([own.mean() for own in kept]), means)


@dataclass(frozen=True)
class PairedStatistics:
    """A statistic of several sides on the same images, higher is better, and of their resamples.

    Attributes:
        images: Number of images.
        values: The statistic of each side, (sides,) float64; NaN where there is no image.
        resamples: The statistic of each side in each resample, (sides, resamples) float64.
    """

    images: int
    values: np.ndarray
    resamples: np.ndarray

    def interval(self, side: int) -> Interval:
        """Return the interval of a side."""
        return percentile_interval(self.resamples[side])

    def difference(self, first: int, second: int) -> Difference:
        """Return the first side less the second.

        The p-value is twice the smaller share of resamples on one side of zero (itself included on
        both), between 2 / (resamples + 1) and 1.
        Source: counting, Davison and Hinkley, Bootstrap Methods and their Application (1997),
        section 4.2.
        """
        resampled = self.resamples[first] - self.resamples[second]
        value = float(self.values[first] - self.values[second])
        return Difference(value, percentile_interval(resampled), two_sided_p_value(resampled))

    def rank(self, side: int) -> int:
        """Return one more than the number of better sides: 1 for the best."""
        return 1 + int((self.values > self.values[side]).sum())

    def ranks(self, side: int) -> tuple[int, int] | None:
        """Return the lowest and highest rank of a side in the middle 95% of resamples.

        None without an interval.
        """
        if np.isnan(self.resamples).any():
            return None
        ranks = 1 + (self.resamples > self.resamples[side]).sum(axis=0)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(ranks, [tail, 1 - tail], method="inverted_cdf")
        return int(low), int(high)


def resampled_means(
    groups: Sequence[np.ndarray],
    *,
    scenes: Sequence[np.ndarray] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    seeds_alike: Sequence[int] | None = None,
) -> np.ndarray:
    """Return means of resamples, (groups, resamples) float64, for intervals of means of means.

    groups: each as in `mean_interval`. One resample takes the same scenes for all groups, and seeds
    of each group's own. scenes: for each group its images' (images,), names of one type; the
    groups may then be of different images, such as the forgeries of several generators, and those
    of one scene are drawn together. None: all groups are of the same images in the same order,
    such as the metrics of a run or runs to compare, each a scene of its own. NaN for a group with
    fewer than two scenes, and in resamples that draw none of a group. `seed`: give another one to
    other scenes, so that their resamples are independent. `seeds_alike`: a number for each group;
    those with the same one take the same seeds, in this call and in others (the same runs on other
    images).
    Raises: InputError for other shapes.
    """
    if scenes is None:
        kept, _ = _of_same_images(groups)
        # In an order of their own, images in another order give the same resamples.
        order = np.lexsort(np.concatenate(kept))
        kept = [group[:, order] for group in kept]
        sums = kept
        counts = np.ones((len(kept), len(order)))
    else:
        kept, sums, counts = _summed_by_scene(groups, scenes)
    drawn = drawn_sums(np.concatenate([*sums, counts]), resamples, generator(seed, "bootstrap"))
    drawn_counts = drawn[len(drawn) - len(kept) :]
    means = np.full((len(kept), resamples), np.nan)
    first = 0
    for number, group in enumerate(kept):
        own = drawn[first : first + len(group)].mean(axis=0)
        first += len(group)
        if np.count_nonzero(counts[number]) < 2:
            continue
        any_drawn = drawn_counts[number] > 0
        np.divide(own, drawn_counts[number], out=means[number], where=any_drawn)
        if len(group) > 1:
            alike = (seed, number) if seeds_alike is None else (seeds_alike[number],)
            # In the order of scenes, so that the last bits do not depend on that of images.
            of_seeds = sums[number].sum(axis=1) / counts[number].sum()
            means[number] += drawn_deviations(of_seeds, resamples, *alike)
    return means


def percentile_interval(resampled: np.ndarray) -> Interval:
    """Return the middle 95% of resampled values; NaN values are left out.

    Where half of them are NaN there is no interval: (NaN, NaN).
    """
    usable = resampled[~np.isnan(resampled)]
    if 2 * len(usable) <= len(resampled):
        return NO_INTERVAL
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(usable, [tail, 1 - tail]).tolist()
    return Interval(low, high)


def two_sided_p_value(differences: np.ndarray) -> float:
    """Return twice the smaller share of resampled differences on one side of zero, at most 1."""
    if np.isnan(differences).any():
        return float("nan")
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return float(min(1.0, 2 * (smaller + 1) / (len(differences) + 1)))


def _as_seeds(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return each as (seeds, images) float64."""
    found = [np.atleast_2d(np.asarray(group, dtype=np.float64)) for group in groups]
    shapes = [group.shape for group in found]
    if not found or any(len(shape) != 2 or not shape[0] for shape in shapes):
        raise InputError(f"values have shapes {shapes}; expected (images,) or (seeds, images)")
    return found


def _of_same_images(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each as (seeds, images), without images that are NaN in any, and which are kept."""
    found = _as_seeds(groups)
    shapes = [group.shape for group in found]
    if len({shape[1] for shape in shapes}) != 1:
        raise InputError(f"values have shapes {shapes}; expected the same images in all of them")
    chosen = ~np.isnan(np.concatenate(found)).any(axis=0)
    return [group[:, chosen] for group in found], chosen


def _summed_by_scene(
    groups: Sequence[np.ndarray], scenes: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return each group without its NaN, its sums (seeds, scenes), and all counts (groups, scenes).

    Scenes are all that occur, sorted, so that the same ones are drawn whatever the groups are.
    """
    found = _as_seeds(groups)
    lengths = [group.shape[1] for group in found]
    if [len(names) for names in scenes] != lengths:
        raise InputError(
            f"groups have {lengths} images and {[len(names) for names in scenes]} scenes; "
            "expected one scene for each image"
        )
    chosen = [~np.isnan(group).any(axis=0) for group in found]
    kept = [group[:, mask] for group, mask in zip(found, chosen, strict=True)]
    names = [np.asarray(some)[mask] for some, mask in zip(scenes, chosen, strict=True)]
    every, places = np.unique(np.concatenate(names), return_inverse=True)
    of_group = np.split(places, np.cumsum([len(some) for some in names])[:-1])
    sums, counts = [], []
    for group, own in zip(kept, of_group, strict=True):
        # Within a scene in an order of their own, as above.
        sums.append(np.stack([_sums(own, values, len(every)) for values in group]))
        counts.append(np.bincount(own, minlength=len(every)))
    return kept, sums, np.array(counts, dtype=np.float64)


def _sums(places: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    order = np.lexsort((values, places))
    return np.bincount(places[order], weights=values[order], minlength=length)
