"""Draws of a bootstrap: scenes with all their images, and seeds."""

from collections.abc import Iterator
from math import sqrt
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import stdtrit

from declip_pipeline.compute import generator, torch_threads
from declip_pipeline.errors import InputError

CONFIDENCE = 0.95
# A statistic is computed for each resample, where means are one product for thousands.
RESAMPLES_OF_A_STATISTIC = 2_000
# Some 50 MB.
DRAWS_AT_ONCE = 2**20


def resampled_counts(
    scenes: np.ndarray,
    *,
    strata: np.ndarray | None = None,
    resamples: int = RESAMPLES_OF_A_STATISTIC,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yield how often each image is in each resample, for statistics such as AP.

    scenes: (images,), what each shows; images of a scene are drawn together. strata:
    (images,), such as the labels: scenes that have the same of its values are drawn among
    themselves, so that no resample lacks a class. Yields blocks (some, images) float64 of
    `resamples` in all; none where there are fewer than two scenes, of which there is no interval.
    The same images in the same order give the same resamples, and so do their scenes alone.
    Raises: InputError for arrays of several lengths.
    Source: as `metrics.bootstrap.mean_interval`.
    """
    values = np.zeros(len(scenes)) if strata is None else strata
    if len(values) != len(scenes):
        raise InputError(
            f"arrays have {sorted([len(values), len(scenes)])} rows; expected one row for each "
            "image"
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


def drawn_sums(rows: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Return sums of `rows` (n, scenes) over as many drawn scenes: (n, resamples)."""
    length = rows.shape[1]
    if not length:
        return np.zeros((len(rows), resamples))
    at_once = max(1, DRAWS_AT_ONCE // length)
    parts = []
    # So few rows are not worth sharing out: a BLAS with a thread for each core waits for the
    # slowest of them where other programs use the cores, too.
    with torch_threads(1):
        for start in range(0, resamples, at_once):
            counts = _draw_counts(random, min(at_once, resamples - start), length)
            parts.append(torch.from_numpy(rows) @ torch.from_numpy(counts).T)
    return torch.cat(parts, dim=1).numpy()


def drawn_deviations(of_seeds: np.ndarray, resamples: int, *alike: int) -> np.ndarray:
    """Return how far means over drawn seeds lie from that over all, widened for few seeds.

    of_seeds: (seeds,). `alike`: the same numbers draw the same seeds. Returns: (resamples,).
    """
    random = generator(0, "bootstrap of seeds", *alike)
    shares = (_draw_counts(random, resamples, len(of_seeds)) - 1) / len(of_seeds)
    deviations: np.ndarray = _widening(len(of_seeds)) * (shares @ of_seeds)
    return deviations


def _widening(seeds: int) -> float:
    """Return the factor by which resamples of few seeds deviate as Student's t predicts.

    The variance of drawn means lacks a factor of (S - 1) / S, and their percentiles are those of a
    normal distribution where t with S - 1 degrees of freedom has longer tails. How often intervals
    of 2, 3 and 5 seeds hold the truth is asserted in tests/metrics/test_bootstrap.py.
    """
    tail = (1 - CONFIDENCE) / 2
    return float(
        sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 1 - tail) / NormalDist().inv_cdf(1 - tail)
    )


def _draw_counts(random: np.random.Generator, resamples: int, length: int) -> np.ndarray:
    """Return how often each of `length` items is drawn: (resamples, length) float64."""
    # Counting draws is quicker than drawing the counts (Generator.multinomial).
    places = random.integers(0, length, (resamples, length))
    places += np.arange(resamples)[:, None] * length
    counts = np.bincount(places.ravel(), minlength=resamples * length)
    return counts.reshape(resamples, length).astype(np.float64)
