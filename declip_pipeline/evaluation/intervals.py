"""Means and their 95% bootstrap intervals: over images, over seeds, and over cells of a table."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from declip_pipeline.compute import derived_seed
from declip_pipeline.evaluation.metrics import (
    LOCALIZATION_METRICS,
    MASKS,
    METRICS,
    POOLED_METRICS,
)
from declip_pipeline.evaluation.pooled import pooled_values, resampled_pooled
from declip_pipeline.metrics.bootstrap import (
    NO_INTERVAL,
    Interval,
    percentile_interval,
    resampled_means,
)
from declip_pipeline.metrics.detection import (
    accuracy_at,
    area_under_roc,
    detection_metrics,
    f1_at,
)
from declip_pipeline.metrics.detection_intervals import RankedImages, detection_intervals
from declip_pipeline.metrics.resampling import drawn_deviations, resampled_counts

if TYPE_CHECKING:
    from declip_pipeline.evaluation.evaluation import Evaluation

RANKING_METRICS = ("ap", "auc")
AT_THRESHOLDS = (
    *("accuracy_at_0_5", "accuracy_at_threshold"),
    *("f1_at_0_5", "f1_at_threshold"),
)
"""Figures of image scores at a threshold: accuracies in percent, F1 in [0, 1]."""

Figures = dict[str, Any]
"""Means and intervals by name, plain JSON values."""


def localization_figures(seeds: "Sequence[Evaluation]") -> Figures:
    """Return means over images with their intervals, over seeds too where there are several.

    Scenes are resampled: all forgeries of one photograph are drawn together.

    Args:
        seeds: For each seed its evaluation, of the same images in the same order.

    Returns:
        Each of `LOCALIZATION_METRICS` in its unit, over images that have a fake pixel, with `_low`
        and `_high`, and with several seeds `_spread`, the standard deviation of their means.
        `images`, `images_without_fake` and `images_without_auc` are counts. The second ones are in
        no mean; of them there are `score_without_fake`, the mean of their maps, and
        `fake_share_without_fake`, the mean share of their pixels above 0.5. The third ones, fake as
        a whole, are in all means but that of `auc`. None where there are no such images, or fewer
        than two scenes.
    """
    fakes = [one.values("has_fake") for one in seeds]
    values = {name: localization_values(seeds, name) for name in METRICS}
    count = next(iter(values.values())).shape[1]
    figures: Figures = {
        "images": count,
        "images_without_fake": int((~fakes[0]).sum()),
        "images_without_auc": int(np.isnan(values["auc"]).any(axis=0).sum()),
    }
    means: dict[str, list[float]] = {}
    resampled: dict[str, np.ndarray] = {}
    if count:
        # All metrics use the same images and the same seeds in each resample.
        scenes = seeds[0].values("scene")[fakes[0]]
        per_image = resampled_means(
            list(values.values()),
            scenes=[scenes] * len(METRICS),
            seeds_alike=[0] * len(METRICS),
        )
        resampled = dict(zip(METRICS, per_image, strict=True))
        means = {name: [mean_of_images(own) for own in values[name]] for name in METRICS}
        for name in POOLED_METRICS:
            pooled = [pooled_values(seeds, name)]
            (resampled[name],) = resampled_pooled(pooled, scenes=[scenes], seeds_alike=[0])
            means[name] = pooled[0].of_seeds
    for name in LOCALIZATION_METRICS:
        found = means.get(name, [])
        figures[name] = _or_none(fmean(found)) if found else None
        low, high = _clipped(resampled[name], name) if found else NO_INTERVAL
        figures[f"{name}_low"], figures[f"{name}_high"] = _or_none(low), _or_none(high)
        if len(seeds) > 1:
            figures[f"{name}_spread"] = _or_none(float(np.std(found, ddof=1))) if found else None
    for name in ("score", "fake_share"):
        real = [v for one, fake in zip(seeds, fakes, strict=True) for v in one.values(name)[~fake]]
        figures[f"{name}_without_fake"] = fmean(map(float, real)) if real else None
    return figures


ALARMING = 0.01
"""Share of a real image's pixels above which its false alarm is a large one."""


def false_alarm_figures(seeds: "Sequence[Evaluation]") -> Figures:
    """Return the false alarms of maps on real images, means over images.

    Args:
        seeds: For each seed its evaluation, of the same images in the same order.

    Returns:
        `real_images` is a count. In percent, each with `_low` and `_high` (bootstrap of scenes) and
        with several seeds `_spread`: `false_alarm_pixels`, the share of pixels that are called
        fake at 0.5; `false_alarm_images`, the share of images with such a pixel;
        `large_false_alarm_images`, the share of those with more than `ALARMING` of their pixels.
        The same at the threshold that is best on `valid`, each run's own, with
        `_valid_threshold` behind the name, and at 0.5 without regions below the minimum size that
        is best on `valid` with `_min_region`. None without a real image, without such a threshold
        or region, or for the interval of fewer than two scenes.
    """
    real = [one.on_real() for one in seeds]
    values: dict[str, np.ndarray] = {}
    for behind in MASKS:
        shares = np.array([one.values(f"fake_share{behind}") for one in real], np.float64)
        # A share that is not known stays NaN.
        alarms = {"false_alarm": shares > 0, "large_false_alarm": shares > ALARMING}
        values[f"false_alarm_pixels{behind}"] = 100 * shares
        for name, are in alarms.items():
            values[f"{name}_images{behind}"] = np.where(np.isnan(shares), np.nan, 100.0 * are)
    figures: Figures = {"real_images": shares.shape[1]}
    if shares.shape[1]:
        resampled = resampled_means(
            list(values.values()),
            scenes=[real[0].values("scene")] * len(values),
            seeds_alike=[0] * len(values),
        )
    for number, (name, own) in enumerate(values.items()):
        is_known = shares.shape[1] and not np.isnan(own).any()
        found = own.mean(axis=1) if is_known else None
        figures[name] = None if found is None else float(found.mean())
        low, high = NO_INTERVAL
        if found is not None:
            low, high = np.clip(percentile_interval(resampled[number]), 0.0, 100.0).tolist()
        figures[f"{name}_low"], figures[f"{name}_high"] = _or_none(low), _or_none(high)
        if len(seeds) > 1:
            figures[f"{name}_spread"] = None if found is None else float(np.std(found, ddof=1))
    return figures


def localization_values(seeds: "Sequence[Evaluation]", metric: str) -> np.ndarray:
    """Return one of `METRICS` of the images that have a fake pixel, (seeds, images) float64."""
    return np.array([one.values(metric)[one.values("has_fake")] for one in seeds], np.float64)


def mean_of_images(values: np.ndarray) -> float:
    """Return the mean of the images (N,) that have a value; NaN where none has."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def seed_mean(one: "Evaluation", metric: str, score: str) -> float | None:
    """Return one run's mean of a metric, None where no image has a value."""
    if one.task == "detection":
        return float(_detection_figures_of_seed(one, score)[metric])
    if metric in POOLED_METRICS:
        return _or_none(pooled_values([one], metric).of_seeds[0])
    return _or_none(mean_of_images(localization_values([one], metric)[0]))


def detection_figures(seeds: "Sequence[Evaluation]", score: str) -> Figures:
    """Return how an image score tells fakes from real images, over seeds where there are several.

    Args:
        seeds: For each seed its evaluation, of the same images in the same order.
        score: Name of the image score.

    Returns:
        `fake` and `real` are counts of images; `ap` and `auc` are in [0, 1], with `ap_interval`
        and `auc_interval`; `accuracy_at_0_5` and `accuracy_at_threshold` are in percent,
        `f1_at_0_5` and `f1_at_threshold`, of the fakes, in [0, 1]. The threshold is the best one on
        the split `valid` (halfway to the next lower score there). A single seed has
        `threshold`, and `accuracy_at_best_of_test` at the threshold that is best on the evaluated
        images themselves, as the reference reports it. Several seeds have `_spread`s, the standard
        deviations of their values.
    """
    found = [_detection_figures_of_seed(one, score) for one in seeds]
    if len(found) == 1:
        labels, scores = _labels_and_scores(seeds[0], score)
        intervals = detection_intervals(scores, labels, seeds[0].values("scene"))
        figures = found[0]
        return {
            "fake": figures["fake"],
            "real": figures["real"],
            "ap": figures["ap"],
            "ap_interval": intervals["ap"],
            "auc": figures["auc"],
            "auc_interval": intervals["auc"],
            **{k: v for k, v in figures.items() if k not in ("fake", "real", "ap", "auc")},
        }
    figures = {name: found[0][name] for name in ("fake", "real")}
    for name in (*RANKING_METRICS, *AT_THRESHOLDS):
        values = [one[name] for one in found]
        figures[name], figures[f"{name}_spread"] = fmean(values), stdev(values)
    for name, some in zip(RANKING_METRICS, _resampled_rankings([seeds], score, 0), strict=True):
        figures[f"{name}_interval"] = _clipped(some, name)
    return figures


def calibrated_threshold(one: "Evaluation", score: str) -> float:
    """Return the threshold of an image score with the best accuracy on the split `valid`."""
    chosen_on = one.calibration
    return detection_metrics(
        torch.from_numpy(_floats(chosen_on.column(score))),
        torch.tensor(chosen_on.column("label").to_pylist()),
    )["threshold_between"]


def _detection_figures_of_seed(one: "Evaluation", score: str) -> Figures:
    labels, scores = _labels_and_scores(one, score)
    threshold = calibrated_threshold(one, score)
    measured = detection_metrics(scores, labels)
    fake = int(labels.sum())
    return {
        "fake": fake,
        "real": len(labels) - fake,
        "ap": measured["average_precision"],
        "auc": area_under_roc(scores, labels),
        "accuracy_at_0_5": measured["accuracy_at_0_5"],
        "threshold": threshold,
        "accuracy_at_threshold": accuracy_at(scores, labels, threshold),
        "f1_at_0_5": f1_at(scores, labels, 0.5),
        "f1_at_threshold": f1_at(scores, labels, threshold),
        "accuracy_at_best_of_test": measured["accuracy_at_best"],
    }


def intervals_over_cells(
    cells: "Sequence[Sequence[Evaluation]]", metrics: Sequence[str], score: str
) -> dict[str, Interval]:
    """Return the interval of the mean over cells of their means over seeds, for each metric.

    Scenes are resampled once for all cells of a dataset: a photograph that several generators
    forged is drawn with all its forgeries, or with none. Seeds are resampled alike in all cells of
    the same runs.

    Args:
        cells: For each cell the evaluations of its seeds, on the same images of one dataset.
        metrics: Of `LOCALIZATION_METRICS`, or "ap" and "auc" of image scores.
        score: For detection: the image score.

    Returns:
        Intervals by metric; (NaN, NaN) without a cell, or where one has fewer than two scenes.
        Source: the nonparametric bootstrap of a mean of means; see `metrics.bootstrap`.
    """
    if not cells:
        return dict.fromkeys(metrics, NO_INTERVAL)
    totals = resampled_over_cells(cells, metrics, score)
    return {name: _clipped(total, name) for name, total in totals.items()}


def resampled_over_cells(
    cells: "Sequence[Sequence[Evaluation]]", metrics: Sequence[str], score: str
) -> dict[str, np.ndarray]:
    """Return the resampled means that `intervals_over_cells` takes intervals of, by metric.

    Scenes are drawn alike for other runs on the same images, so that the difference of two calls
    is a paired one.
    """
    is_ranking = cells[0][0].task == "detection"
    datasets: dict[str, list[Sequence[Evaluation]]] = {}
    for cell in cells:
        datasets.setdefault(cell[0].stores[0].dataset, []).append(cell)
    totals: dict[str, Any] = dict.fromkeys(metrics, 0.0)
    for dataset, own in datasets.items():
        seed = derived_seed(0, dataset)
        if is_ranking:
            rankings = _resampled_rankings(own, score, seed, len(cells))
            for name in metrics:
                totals[name] = totals[name] + rankings[RANKING_METRICS.index(name)]
            continue
        scenes = [cell[0].values("scene")[cell[0].values("has_fake")] for cell in own]
        alike = [_alike(cell[0]) for cell in own]
        for name in metrics:
            if name in POOLED_METRICS:
                pooled = [pooled_values(cell, name) for cell in own]
                means = resampled_pooled(pooled, scenes=scenes, seed=seed, seeds_alike=alike)
            else:
                means = resampled_means(
                    [localization_values(cell, name) for cell in own],
                    scenes=scenes,
                    seed=seed,
                    seeds_alike=alike,
                )
            for mean, cell in zip(means, own, strict=True):
                totals[name] = totals[name] + mean * len(cell) / (len(cell) * len(cells))
    return totals


def _resampled_rankings(
    cells: "Sequence[Sequence[Evaluation]]", score: str, seed: int, count: int = 1
) -> np.ndarray:
    """Return the part of cells of one dataset in the means of resampled AP and AUC.

    Returns:
        (2, resamples) float64: sums over cells of their means over seeds, divided by `count`, the
        number of cells of all datasets.
    """
    # Cells share images, the real ones at least: each image is drawn once for all.
    every: dict[Any, tuple[str, int]] = {}
    places_of: list[np.ndarray] = []
    number: dict[Any, int] = {}
    for cell in cells:
        one = cell[0]
        ids = one.images()
        for image, scene, label in zip(ids, one.values("scene"), one.values("label"), strict=True):
            number.setdefault(image, len(number))
            every.setdefault(image, (str(scene), int(label)))
        places_of.append(np.array([number[image] for image in ids]))
    ranked = [
        [RankedImages(one.values(score), one.values("label") == 1) for one in cell]
        for cell in cells
    ]
    weights = [1 / (len(cell) * count) for cell in cells]
    blocks = []
    for counts in resampled_counts(
        np.array([scene for scene, _ in every.values()], dtype=np.str_),
        strata=np.array([label for _, label in every.values()]),
        seed=seed,
    ):
        # (2, resamples), summed over runs.
        block = np.zeros((len(RANKING_METRICS), len(counts)))
        for weight, runs, places in zip(weights, ranked, places_of, strict=True):
            for run in runs:
                block += weight * run.ap_and_auc(counts[:, places])
        blocks.append(block)
    if not blocks:
        return np.full((len(RANKING_METRICS), 1), np.nan)
    total: np.ndarray = np.concatenate(blocks, axis=1)
    for weight, cell, runs, places in zip(weights, cells, ranked, places_of, strict=True):
        if len(cell) > 1:
            once = np.ones((1, len(places)))
            of_seeds = np.concatenate([run.ap_and_auc(once) for run in runs], axis=1)
            for place, values in enumerate(of_seeds):
                drawn = drawn_deviations(values, total.shape[1], _alike(cell[0]))
                total[place] += weight * len(cell) * drawn
    return total


def _alike(one: "Evaluation") -> int:
    """Return the number that makes the same runs draw the same seeds in all cells."""
    return derived_seed(0, "+".join(one.trained_on), one.kind)


def _labels_and_scores(one: "Evaluation", score: str) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.from_numpy(one.values("label").astype(np.int64))
    return labels, torch.from_numpy(np.array(one.values(score), np.float64))


def _floats(column: Any) -> np.ndarray:
    return np.array(column.to_pylist(), np.float64)


def _clipped(resampled: np.ndarray, metric: str) -> Interval:
    """Return the interval of resampled means, cut to the range of the metric."""
    low, high = percentile_interval(resampled)
    known = LOCALIZATION_METRICS.get(metric)
    lowest, highest = (0.0, 1.0) if known is None else (known.lowest, known.highest)
    # Those of two seeds are wide; a NaN stays one.
    return Interval(*np.clip([low, high], lowest, highest).tolist())


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
