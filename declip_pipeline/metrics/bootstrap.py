"""How far a mean would move with other pictures and other seeds: bootstrap intervals of 95%."""

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit

from declip_pipeline.core_threads import torch_threads
from declip_pipeline.errors import InputError
from declip_pipeline.seeding import generator

RESAMPLES = 10_000
# A statistic is computed for each resample, where means are one product for thousands.
RESAMPLES_OF_A_STATISTIC = 2_000
CONFIDENCE = 0.95
# Some 50 MB.
DRAWS_AT_ONCE = 2**20


class Interval(NamedTuple):
    """Both ends of an interval, in the unit of what it is of; NaN where there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


class Difference(NamedTuple):
    """A mean less another one on the same pictures, its interval, and a two-sided p-value."""

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
    """The interval of the mean of `values`, of pictures or of pictures under several seeds.

    values: (pictures,), or (seeds, pictures) with the same picture in each column. Pictures that
    are NaN under any seed are left out. The order of the pictures does not matter. scenes:
    (pictures,), what each shows; all pictures of a scene are drawn together, since they tell the
    same. None: each is a scene of its own. Of fewer than two scenes there is no interval:
    (NaN, NaN).
    Raises: InputError for another shape.
    Source: the percentile interval, Efron and Tibshirani, An Introduction to the Bootstrap (1993),
    chapter 13; drawing whole groups, Davison and Hinkley, Bootstrap Methods and their Application
    (1997), section 3.8. Seeds are resampled by themselves, and what they deviate adds to what
    pictures do: two-way, after the pigeonhole bootstrap (Owen, Annals of Applied Statistics 1,
    2007), with the seeds' part widened for how few there are (`_widening`). What a seed does to
    single pictures counts in both parts, so an interval over seeds errs towards a wide one; of two
    or three seeds it is as wide as two or three values leave it.
    """
    groups = None if scenes is None else [scenes]
    means = resampled_means([values], scenes=groups, resamples=resamples, seed=seed)
    return percentile_interval(means[0])


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    scenes: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The mean of `first` less that of `second`, both of the same pictures.

    first, second, scenes: as in `mean_interval`, with the same picture in each column of both; each
    may have several seeds of its own. Each resample takes the same pictures for both, so what makes
    a picture hard for both drops out. The p-value is twice the smaller share of resamples on one
    side of zero (itself included on both), between 2 / (resamples + 1) and 1.
    Raises: InputError for other shapes.
    Source: as `mean_interval`; the p-value by counting, Davison and Hinkley, Bootstrap Methods and
    their Application (1997), section 4.2.
    """
    kept, judged = _of_same_pictures([first, second])
    if not judged.any():
        return Difference(float("nan"), NO_INTERVAL, float("nan"))
    groups = None if scenes is None else [scenes[judged]] * 2
    means = resampled_means(kept, scenes=groups, resamples=resamples, seed=seed)
    differences = means[0] - means[1]
    value = float(kept[0].mean() - kept[1].mean())
    return Difference(value, percentile_interval(differences), two_sided_p_value(differences))


def resampled_counts(
    scenes: np.ndarray,
    *,
    strata: np.ndarray | None = None,
    resamples: int = RESAMPLES_OF_A_STATISTIC,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """How often each picture is in each resample, for statistics that are no means, such as AP.

    scenes: (pictures,), what each shows; pictures of a scene are drawn together. strata:
    (pictures,), such as the labels: scenes that have the same of its values are drawn among
    themselves, so that no resample lacks a class. Yields blocks (some, pictures) float64 of
    `resamples` in all; none where there are fewer than two scenes, of which there is no interval.
    The same pictures in the same order give the same resamples, and so do their scenes alone.
    Raises: InputError for arrays of several lengths.
    Source: as `mean_interval`.
    """
    values = np.zeros(len(scenes)) if strata is None else strata
    if len(values) != len(scenes):
        raise InputError(
            f"arrays have {sorted([len(values), len(scenes)])} rows; expected one row for each "
            "picture"
        )
    names, scene_of = np.unique(scenes, return_inverse=True)
    if len(names) < 2:
        return
    kinds, kind_of = np.unique(values, return_inverse=True)
    has = np.zeros((len(names), len(kinds)), dtype=bool)
    has[scene_of, kind_of] = True
    _, stratum_of = np.unique(has, axis=0, return_inverse=True)
    groups = [np.flatnonzero(stratum_of == number) for number in range(stratum_of.max() + 1)]
    random = generator(seed, "bootstrap")
    at_once = max(1, DRAWS_AT_ONCE // len(scenes))
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        drawn = np.empty((some, len(names)))
        for group in groups:
            drawn[:, group] = _draw_counts(random, some, len(group))
        yield drawn[:, scene_of]


def resampled_means(
    groups: Sequence[np.ndarray],
    *,
    scenes: Sequence[np.ndarray] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    seeds_alike: Sequence[int] | None = None,
) -> np.ndarray:
    """Means of resamples, (groups, resamples) float64, for intervals of what is made of means.

    groups: each as in `mean_interval`. One resample takes the same scenes for all groups, and seeds
    of each group's own. scenes: for each group its pictures' (pictures,), names of one type; the
    groups may then be of different pictures, such as the forgeries of several generators, and those
    of one scene are drawn together. None: all groups are of the same pictures in the same order,
    such as the metrics of a run or runs to compare, each a scene of its own. NaN for a group with
    fewer than two scenes, and in resamples that draw none of a group. `seed`: give another one to
    other scenes, so that their resamples are independent. `seeds_alike`: a number for each group;
    those with the same one take the same seeds, in this call and in others (the same runs on other
    pictures).
    Raises: InputError for other shapes.
    """
    if scenes is None:
        kept, _ = _of_same_pictures(groups)
        # In an order of their own, pictures in another order give the same resamples.
        order = np.lexsort(np.concatenate(kept))
        kept = [group[:, order] for group in kept]
        sums = kept
        counts = np.ones((len(kept), len(order)))
    else:
        kept, sums, counts = _summed_by_scene(groups, scenes)
    drawn = _drawn_sums(np.concatenate([*sums, counts]), resamples, generator(seed, "bootstrap"))
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
            # In the order of scenes, so that the last bits do not depend on that of pictures.
            of_seeds = sums[number].sum(axis=1) / counts[number].sum()
            means[number] += drawn_deviations(of_seeds, resamples, *alike)
    return means


def drawn_deviations(of_seeds: np.ndarray, resamples: int, *alike: int) -> np.ndarray:
    """How far the mean over drawn seeds lies from that over all, widened for how few they are.

    of_seeds: (seeds,). `alike`: the same numbers draw the same seeds. Returns: (resamples,).
    """
    random = generator(0, "bootstrap of seeds", *alike)
    shares = (_draw_counts(random, resamples, len(of_seeds)) - 1) / len(of_seeds)
    deviations: np.ndarray = _widening(len(of_seeds)) * (shares @ of_seeds)
    return deviations


def percentile_interval(resampled: np.ndarray) -> Interval:
    """The middle 95% of resampled values; those that are NaN are left out.

    Where half of them are NaN there is no interval: (NaN, NaN).
    """
    usable = resampled[~np.isnan(resampled)]
    if 2 * len(usable) <= len(resampled):
        return NO_INTERVAL
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(usable, [tail, 1 - tail]).tolist()
    return Interval(low, high)


def two_sided_p_value(differences: np.ndarray) -> float:
    """Twice the smaller share of resampled differences on one side of zero, at most 1."""
    if np.isnan(differences).any():
        return float("nan")
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return float(min(1.0, 2 * (smaller + 1) / (len(differences) + 1)))


def _as_seeds(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each as (seeds, pictures) float64."""
    found = [np.atleast_2d(np.asarray(group, dtype=np.float64)) for group in groups]
    shapes = [group.shape for group in found]
    if not found or any(len(shape) != 2 or not shape[0] for shape in shapes):
        raise InputError(f"values have shapes {shapes}; expected (pictures,) or (seeds, pictures)")
    return found


def _of_same_pictures(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Each as (seeds, pictures), without the pictures that are NaN in any, and which are kept."""
    found = _as_seeds(groups)
    shapes = [group.shape for group in found]
    if len({shape[1] for shape in shapes}) != 1:
        raise InputError(f"values have shapes {shapes}; expected the same pictures in all of them")
    judged = ~np.isnan(np.concatenate(found)).any(axis=0)
    return [group[:, judged] for group in found], judged


def _summed_by_scene(
    groups: Sequence[np.ndarray], scenes: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Each group without its NaN, its sums (seeds, scenes), and all counts (groups, scenes).

    Scenes are all that occur, sorted, so that the same ones are drawn whatever the groups are.
    """
    found = _as_seeds(groups)
    lengths = [group.shape[1] for group in found]
    if [len(names) for names in scenes] != lengths:
        raise InputError(
            f"groups have {lengths} pictures and {[len(names) for names in scenes]} scenes; "
            "expected one scene for each picture"
        )
    judged = [~np.isnan(group).any(axis=0) for group in found]
    kept = [group[:, mask] for group, mask in zip(found, judged, strict=True)]
    names = [np.asarray(some)[mask] for some, mask in zip(scenes, judged, strict=True)]
    every, places = np.unique(np.concatenate(names), return_inverse=True)
    of_group = np.split(places, np.cumsum([len(some) for some in names])[:-1])
    sums, counts = [], []
    for group, own in zip(kept, of_group, strict=True):
        # Within a scene in an order of their own, as above.
        sums.append(np.stack([_sums(own, values, len(every)) for values in group]))
        counts.append(np.bincount(own, minlength=len(every)))
    return kept, sums, np.array(counts, dtype=np.float64)


def _drawn_sums(rows: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Sums of `rows` (n, scenes) over as many drawn scenes, for each resample: (n, resamples)."""
    length = rows.shape[1]
    if not length:
        return np.zeros((len(rows), resamples))
    at_once = max(1, DRAWS_AT_ONCE // length)
    parts = []
    # So few rows are not worth sharing out: numpy's BLAS, with a thread a core, took 18 s for four
    # rows of 9,000 pictures where other programs used the cores too, one thread takes 0.3 s.
    with torch_threads(1):
        for start in range(0, resamples, at_once):
            counts = _draw_counts(random, min(at_once, resamples - start), length)
            parts.append(torch.from_numpy(rows) @ torch.from_numpy(counts).T)
    return torch.cat(parts, dim=1).numpy()


def _sums(places: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    order = np.lexsort((values, places))
    return np.bincount(places[order], weights=values[order], minlength=length)


def _widening(seeds: int) -> float:
    """What makes resamples of so few seeds deviate as Student's t says their mean does.

    The variance of drawn means lacks a factor of (S - 1) / S, and their percentiles are those of a
    normal distribution where t with S - 1 degrees of freedom has longer tails. Unwidened intervals
    of 200 pictures held the truth 65% of the time with 2 seeds, 81% with 3 and 90% with 5.
    """
    tail = (1 - CONFIDENCE) / 2
    return float(
        sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 1 - tail) / NormalDist().inv_cdf(1 - tail)
    )


def _draw_counts(random: np.random.Generator, resamples: int, length: int) -> np.ndarray:
    """How often each of `length` things is drawn: (resamples, length) float64."""
    # Counting draws takes a tenth of the time of drawing the counts (Generator.multinomial).
    places = random.integers(0, length, (resamples, length))
    places += np.arange(resamples)[:, None] * length
    counts = np.bincount(places.ravel(), minlength=resamples * length)
    return counts.reshape(resamples, length).astype(np.float64)
