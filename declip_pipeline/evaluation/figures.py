"""Mean figures with their intervals, of one run or of runs that differ in their seed."""

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from declip_pipeline.evaluation.localization import METRICS, ImageResult, mean_figures, scenes_of
from declip_pipeline.metrics.bootstrap import Interval, percentile_interval, resampled_means

Figures = dict[str, float | int | None]
"""What `figures_with_intervals` returns; plain JSON values."""


def figures_with_intervals(runs: Sequence[Sequence[ImageResult]]) -> Figures:
    """Means over pictures with bootstrap intervals of 95%, over seeds too where there are several.

    Resampled are scenes: what was forged of one photograph is drawn together.

    runs: for each seed its results, of the same pictures in the same order. `iou` is in percent,
    the other metrics in [0, 1], over the pictures that have a fake pixel; each with `_low` and
    `_high`, and with several seeds `_spread`, the standard deviation of their means. `images` and
    `images_without_fake` count pictures; of the latter there are `score_without_fake`, the mean of
    their maps, and `fake_share_without_fake`, the mean share of pixels called fake at 0.5. None
    stands for what there is not: no such pictures, or fewer than two for an interval.
    """
    means = [mean_figures(results) for results in runs]
    figures: Figures = {
        "images": means[0]["images"],
        "images_without_fake": means[0]["images_without_fake"],
    }
    judged = metric_values(runs)
    if judged[0].shape[1]:
        # The same pictures and the same seeds for all metrics: it is one resample of the test.
        names = scenes_of(result for result in runs[0] if result.has_fake)
        resampled = resampled_means(
            judged, scenes=[names] * len(METRICS), seeds_alike=[0] * len(METRICS)
        )
    for number, name in enumerate(METRICS):
        found = [float(value) for one in means if (value := one[name]) is not None]
        figures[name] = fmean(found) if found else None
        low, high = interval_of(resampled[number], name) if found else (np.nan, np.nan)
        figures[f"{name}_low"], figures[f"{name}_high"] = _or_none(low), _or_none(high)
        if len(runs) > 1:
            figures[f"{name}_spread"] = stdev(found) if found else None
    real = [result for results in runs for result in results if not result.has_fake]
    for name in ("score", "fake_share"):
        values = [getattr(result, name) for result in real]
        figures[f"{name}_without_fake"] = fmean(values) if values else None
    return figures


def interval_of(resampled: np.ndarray, metric: str) -> Interval:
    """The interval of resampled means of one of METRICS, cut where no mean can be."""
    low, high = percentile_interval(resampled)
    highest = 100.0 if metric == "iou" else 1.0
    # Those of two seeds are wide; a NaN stays one.
    return Interval(*np.clip([low, high], 0.0, highest).tolist())


def metric_values(runs: Sequence[Sequence[ImageResult]]) -> list[np.ndarray]:
    """For each of METRICS its values, (seeds, pictures), of pictures that have a fake pixel."""
    judged = [[result for result in results if result.has_fake] for results in runs]
    return [
        np.array([[getattr(result, name) for result in results] for results in judged], float)
        for name in METRICS
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
