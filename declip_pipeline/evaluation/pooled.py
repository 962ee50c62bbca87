"""Pooled metrics: of the pixels of all images together, and their resamples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from declip_pipeline.metrics.bootstrap import RESAMPLES, resampled_means
from declip_pipeline.metrics.resampling import drawn_deviations

if TYPE_CHECKING:
    from declip_pipeline.evaluation.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class PooledValues:
    """A pooled metric of one run or several seeds: a sum over images divided by another.

    Attributes:
        parts: (seeds, images) float64, what is divided.
        wholes: (seeds, images) float64, what it is divided by.
    """

    parts: np.ndarray
    wholes: np.ndarray

    def of(self, images: np.ndarray) -> "PooledValues":
        """Return those of some images, (images,) bool."""
        return PooledValues(self.parts[:, images], self.wholes[:, images])

    @property
    def of_seeds(self) -> list[float]:
        """The metric of each seed; NaN without an image."""
        parts, wholes = self.parts.sum(axis=1), self.wholes.sum(axis=1)
        return [float(p / w) if w else float("nan") for p, w in zip(parts, wholes, strict=True)]


def pooled_values(seeds: "Sequence[Evaluation]", metric: str) -> PooledValues:
    """Return what a pooled metric is made of, of the images that have a fake pixel.

    Args:
        seeds: For each seed its evaluation, of the same images in the same order.
        metric: Of `POOLED_METRICS`: "iou_pooled", TP / (TP + FP + FN) in percent, or "f1_pooled",
            2 TP / (2 TP + FP + FN) in [0, 1], with pixels of all images summed up.
    """
    found, called, fake = (
        np.array([one.values(name)[one.values("has_fake")] for one in seeds], np.float64)
        for name in ("found_pixels", "called_pixels", "fake_pixels")
    )
    if metric == "iou_pooled":
        return PooledValues(100 * found, called + fake - found)
    return PooledValues(2 * found, called + fake)


def resampled_pooled(
    groups: Sequence[PooledValues],
    *,
    scenes: Sequence[np.ndarray],
    seed: int = 0,
    seeds_alike: Sequence[int],
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Return resamples of pooled metrics, (groups, resamples) float64, over the same scenes.

    Scenes are drawn with the counts of all their images, as in `resampled_means`, whose arguments
    these are; the mean over seeds is of each seed's own pooled metric, and seeds are drawn besides.
    """
    sums = [row[None] for one in groups for both in (one.parts, one.wholes) for row in both]
    of_sums = [
        own for own, one in zip(scenes, groups, strict=True) for _ in range(2 * len(one.parts))
    ]
    drawn = iter(resampled_means(sums, scenes=of_sums, resamples=resamples, seed=seed))
    found = []
    for one, alike in zip(groups, seeds_alike, strict=True):
        parts, wholes = (np.array([next(drawn) for _ in both]) for both in (one.parts, one.wholes))
        means = (parts / wholes).mean(axis=0)
        if len(one.parts) > 1:
            means = means + drawn_deviations(np.array(one.of_seeds), resamples, alike)
        found.append(means)
    return np.array(found)
