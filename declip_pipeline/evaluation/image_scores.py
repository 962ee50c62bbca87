"""Whole images by scores of their maps: fakes against real images, and verdicts at a threshold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from declip_pipeline.evaluation.scores import MEAN_LOGIT
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, percentile_interval
from declip_pipeline.metrics.detection_intervals import RankedImages
from declip_pipeline.metrics.resampling import drawn_deviations, resampled_counts

if TYPE_CHECKING:
    from declip_pipeline.evaluation.evaluation import Evaluation

IMAGE_SCORES = ("score", "score_max", "score_top")
"""Image scores of a localization: mean, maximum, and mean of the highest values of the map."""

_HALF = 0.5

_Statistics = Callable[[np.ndarray], np.ndarray]
"""Returns statistics (names, resamples) of images that are there (resamples, images) times."""


@dataclass(frozen=True, eq=False)
class _Images:
    """Scores (N,) of fakes and real images, which are fake, and their scenes."""

    scores: np.ndarray
    fake: np.ndarray
    scenes: np.ndarray


def image_score_figures(seeds: "Sequence[Evaluation]") -> dict[str, dict[str, Any]]:
    """Return how image scores of localization's maps tell fakes from the split's real images.

    An image is called forged where its score is above 0.5; of `score_max` that is: where any pixel
    is.

    Args:
        seeds: For each seed its evaluation of localization, of the same images in the same order.

    Returns:
        For each of `IMAGE_SCORES` the counts `fake` and `real`, and `auc` (0 to 1), `accuracy`
        (percent) and `f1` (0 to 1), each with `_low` and `_high` (bootstrap of scenes), and with
        several seeds `_spread`. Nothing without a real image or without a fake.
    """
    found = {}
    for score in IMAGE_SCORES:
        images = [_images_of(one, score) for one in seeds]
        if images[0].fake.all() or not images[0].fake.any():
            return {}
        statistics = [_of_score(one) for one in images]
        found[score] = _figures(statistics, images[0], {"auc": 1.0, "accuracy": 100.0, "f1": 1.0})
    return found


def verdict_figures(seeds: "Sequence[Evaluation]") -> dict[str, Any] | None:
    """Return how often verdicts are right: at each run's own threshold of image scores.

    Args:
        seeds: For each seed its evaluation, of the same images in the same order.

    Returns:
        The counts `fake` and `real`, `threshold` (of a single seed), `true_positive_rate` and
        `false_positive_rate`: the shares of fakes and of real images that are called forged, in
        percent, each with `_low` and `_high` (bootstrap of scenes), and with several seeds
        `_spread`. None where a run keeps no such threshold (`Run.score_threshold`) or does not
        score as its training did, and without a real image or a fake.
    """
    scores = [_own_score(one) for one in seeds]
    if any(
        one.score_threshold is None or name is None for one, name in zip(seeds, scores, strict=True)
    ):
        return None
    images = [_images_of(one, str(name)) for one, name in zip(seeds, scores, strict=True)]
    if images[0].fake.all() or not images[0].fake.any():
        return None
    statistics = [
        _of_verdicts(some, some.scores >= one.score_threshold)
        for some, one in zip(images, seeds, strict=True)
    ]
    names = {"true_positive_rate": 100.0, "false_positive_rate": 100.0}
    figures = _figures(statistics, images[0], names)
    return figures if len(seeds) > 1 else {"threshold": seeds[0].score_threshold, **figures}


def _own_score(one: "Evaluation") -> str | None:
    """Return the column of the score that the threshold of the run is of; None if it is not there.

    Of a run of localization the mean of its map, of one of detection its pooled logit's sigmoid.
    """
    pooling = one.config.get("pooling")
    if one.task == "localization":
        return "score" if pooling is None else None
    return {None: "mean_sigmoid", "mean": MEAN_LOGIT}.get(pooling, pooling)


def _images_of(one: "Evaluation", score: str) -> _Images:
    if one.task == "detection":
        return _Images(one.values(score), one.values("label") == 1, one.values("scene"))
    real = one.on_real()
    scores, scenes = (
        np.concatenate([one.values(name), real.values(name)]) for name in (score, "scene")
    )
    fake = np.arange(len(scores)) < len(one.values(score))
    return _Images(scores, fake, scenes)


def _of_score(images: _Images) -> _Statistics:
    ranked = RankedImages(images.scores, images.fake)
    called = images.scores > _HALF

    def statistics(counts: np.ndarray) -> np.ndarray:
        (_, auc) = ranked.ap_and_auc(counts)
        right = counts @ (called == images.fake) / counts.sum(axis=1)
        found = counts @ (called & images.fake)
        f1 = 2 * found / (counts @ called + counts @ images.fake)
        return np.stack([auc, 100 * right, f1])

    return statistics


def _of_verdicts(images: _Images, called: np.ndarray) -> _Statistics:
    def statistics(counts: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                100 * (counts @ (called & some)) / (counts @ some)
                for some in (images.fake, ~images.fake)
            ]
        )

    return statistics


def _figures(
    of_seeds: Sequence[_Statistics], images: _Images, names: dict[str, float]
) -> dict[str, Any]:
    """Return counts and figures with intervals; `names` has the highest value of each figure."""
    once = np.ones((1, len(images.fake)))
    # (seeds, names)
    values = np.array([statistics(once)[:, 0] for statistics in of_seeds])
    # Strata keep fakes and real images in each resample.
    blocks = [
        np.mean([statistics(counts) for statistics in of_seeds], axis=0)
        for counts in resampled_counts(images.scenes, strata=images.fake)
    ]
    fakes = int(images.fake.sum())
    figures: dict[str, Any] = {"fake": fakes, "real": len(images.fake) - fakes}
    for place, (name, highest) in enumerate(names.items()):
        own = values[:, place].tolist()
        figures[name] = fmean(own)
        low, high = NO_INTERVAL
        if blocks:
            resampled = np.concatenate([block[place] for block in blocks])
            if len(own) > 1:
                resampled = resampled + drawn_deviations(np.array(own), len(resampled), 0)
            low, high = np.clip(percentile_interval(resampled), 0.0, highest).tolist()
        for end, value in (("low", low), ("high", high)):
            figures[f"{name}_{end}"] = None if np.isnan(value) else value
        if len(own) > 1:
            figures[f"{name}_spread"] = stdev(own)
    return figures
