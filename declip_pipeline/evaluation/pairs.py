"""Several sides on the same images: means, ranks, and differences of all pairs, with intervals."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from declip_pipeline.arguments import names_in
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.evaluation import OVERALL, Evaluation
from declip_pipeline.evaluation.intervals import calibrated_threshold, localization_values
from declip_pipeline.evaluation.metrics import (
    DETECTION_METRICS,
    LOCALIZATION_METRICS,
    POOLED_METRICS,
    Metric,
    chosen_metrics,
)
from declip_pipeline.evaluation.pooled import PooledValues, pooled_values, resampled_pooled
from declip_pipeline.evaluation.scores import Task
from declip_pipeline.metrics.bootstrap import (
    Difference,
    Interval,
    PairedStatistics,
    paired_means,
)
from declip_pipeline.metrics.detection_intervals import RankedImages
from declip_pipeline.metrics.holm import holm
from declip_pipeline.metrics.resampling import drawn_deviations, resampled_counts

Side = Sequence[Evaluation]
"""A run, or several that differ in their seed alone."""


@dataclass(frozen=True)
class RankedMean:
    """Mean of one metric of one side over the shared images of a generator, or of all ("overall").

    Attributes:
        generator: Name of the generator, or "overall".
        metric: One of `LOCALIZATION_METRICS`, or for detection of `DETECTION_METRICS`; in the
            metric's unit.
        images: Number of images.
        side: Number of the side, from 0.
        value: The mean over images and seeds; pooled metrics, and AP and AUC of detection, are of
            all images together.
        interval: Its interval.
        rank: 1 for the best; sides that are equal have the same.
        ranks: Lowest and highest rank in the middle 95% of resamples; None without an interval.
    """

    generator: str
    metric: str
    images: int
    side: int
    value: float
    interval: Interval
    rank: int
    ranks: tuple[int, int] | None


@dataclass(frozen=True)
class PairDifference:
    """Difference of two sides, with its interval and p-value.

    Attributes:
        generator: Name of the generator, or "overall".
        metric: As in `RankedMean`.
        images: Number of images.
        sides: Numbers of the sides, the lower first.
        difference: The first side's mean less the second's, with its interval and p-value.
        corrected_p_value: The p-value by Holm's method, corrected for the number of pairs of this
            metric and generator.
    """

    generator: str
    metric: str
    images: int
    sides: tuple[int, int]
    difference: Difference
    corrected_p_value: float


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics of a task by name."""
    return LOCALIZATION_METRICS if task == "localization" else DETECTION_METRICS


def compared(
    sides: Sequence[Side], *, score: str, metrics: str | Sequence[str] | None = None
) -> tuple[list[RankedMean], list[PairDifference]]:
    """Return means and differences of every metric, by generator and, of several, overall.

    Images that any run lacks are left out; of localization also those without a fake pixel. Scenes
    are resampled, the same ones for all sides, so that several forgeries of one photograph count
    as one, and what makes an image hard for all drops out of a difference.

    Args:
        sides: At least two sides, of one task.
        score: For detection: the image score.
        metrics: Names of metrics, or "all"; None takes `DEFAULT_METRICS`, of detection all. Where
            none is named, a metric that a side has no values of is left out, see `lacking_values`.

    Raises:
        InputError: When no image is left, or for detection no fake or no real one; for a metric
            that is named and that a side has no values of.
        UnknownNameError: For another metric.
    """
    task = sides[0][0].task
    known = metrics_of(task)
    chosen = chosen_metrics(metrics, known)
    aligned = _aligned(sides)
    if task == "localization":
        found = _localized(aligned, chosen)
    else:
        found = _detected(aligned, chosen, score)
    means: list[RankedMean] = []
    pairs: list[PairDifference] = []
    for generator, metric, one in found:
        means += _ranked(generator, metric, one, known[metric])
        pairs += _differences(generator, metric, one)
    named = names_in(metrics or (), "metrics")
    missing = [name for name in lacking_values(sides, chosen) if name in named]
    if missing:
        raise InputError(
            f"a run has no values of {', '.join(sorted(missing))} (one that keeps nothing from its "
            "split valid, say); leave it out of `metrics`, or the run"
        )
    return means, pairs


def lacking_values(
    sides: Sequence[Side], metrics: str | Sequence[str] | None
) -> dict[str, list[int]]:
    """Return the metrics that cannot be compared, each with the sides that have no values of it.

    Arguments as for `compared`. Maps of other tools have no values of `iou_valid_threshold` and
    `iou_min_region`, nor have runs that keep no such threshold or size from their split `valid`.
    """
    if sides[0][0].task == "detection":
        return {}
    found = {}
    aligned = _aligned(sides)
    for name in chosen_metrics(metrics):
        if name in POOLED_METRICS:
            continue
        own = [
            side
            for side, seeds in enumerate(aligned)
            if np.isnan(localization_values(seeds, name)).any(axis=0).all()
        ]
        if own:
            found[name] = own
    return found


def _aligned(sides: Sequence[Side]) -> list[list[Evaluation]]:
    """Return the sides on the images that all runs have, in one order.

    Raises `InputError` for images that cannot be compared.
    """
    shared = set(sides[0][0].images()).intersection(
        *(one.images() for side in sides for one in side)
    )
    # In one order for all, whatever the order in the stores.
    order = sorted(shared, key=lambda image: (image[0], image[1] or b"", image[2] or b""))
    aligned = [[one.take(order) for one in side] for side in sides]
    first = aligned[0][0]
    counts = ", ".join(str(len(side[0].images())) for side in sides)
    remedy = f"the runs have {counts} images; give stores of one dataset"
    if first.task == "localization":
        if not first.values("has_fake").any():
            raise InputError(f"no image with a fake pixel was evaluated for every run: {remedy}")
        return aligned
    labels = first.values("label")
    fake, real = int((labels == 1).sum()), int((labels == 0).sum())
    if not fake or not real:
        raise InputError(
            f"{fake} fake and {real} real images were evaluated for every run, expected at least "
            f"one of each: {remedy}"
        )
    return aligned


def _localized(
    sides: Sequence[Side], metrics: Sequence[str]
) -> Iterator[tuple[str, str, PairedStatistics]]:
    first = sides[0][0]
    fakes = first.values("has_fake")
    names, scenes = first.values("generator")[fakes], first.values("scene")[fakes]
    for generator, of_generator in _groups(names):
        for metric in metrics:
            if metric in POOLED_METRICS:
                pooled = [pooled_values(side, metric).of(of_generator) for side in sides]
                yield generator, metric, _paired_pooled(pooled, scenes[of_generator])
                continue
            found = paired_means(
                [localization_values(side, metric)[:, of_generator] for side in sides],
                scenes=scenes[of_generator],
            )
            if found.images:  # not a run without values of it
                yield generator, metric, found


def _paired_pooled(sides: Sequence[PooledValues], scenes: np.ndarray) -> PairedStatistics:
    """Return a pooled metric of several sides; each resample takes the same scenes for all."""
    resamples = resampled_pooled(sides, scenes=[scenes] * len(sides), seeds_alike=range(len(sides)))
    values = np.array([np.mean(one.of_seeds) for one in sides])
    return PairedStatistics(len(scenes), values, resamples)


def _detected(
    sides: Sequence[Side], metrics: Sequence[str], score: str
) -> Iterator[tuple[str, str, PairedStatistics]]:
    names = sides[0][0].generators
    for generator in [*names, *([OVERALL] if len(names) > 1 else [])]:
        own = [
            [one if generator == OVERALL else one.of(generator) for one in side] for side in sides
        ]
        labels, scenes = (own[0][0].values(column) for column in ("label", "scene"))
        statistics = [[_statistics(one, score, metrics) for one in side] for side in own]
        once = np.ones((1, len(labels)))
        # Each (sides, metrics, resamples), a mean over seeds.
        values = _means_over_seeds(statistics, once)
        blocks = [
            _means_over_seeds(statistics, counts)
            for counts in resampled_counts(scenes, strata=labels)
        ]
        resampled = np.concatenate(blocks, axis=2) if blocks else np.full(values.shape, np.nan)
        for number, side in enumerate(statistics):
            if len(side) > 1:
                for place, of_seeds in enumerate(np.concatenate([of(once) for of in side], axis=1)):
                    drawn = drawn_deviations(of_seeds, resampled.shape[2], 0, number)
                    resampled[number, place] += drawn
        for place, metric in enumerate(metrics):
            found = PairedStatistics(len(labels), values[:, place, 0], resampled[:, place])
            yield generator, metric, found


Statistics = Callable[[np.ndarray], np.ndarray]
"""Function of counts, (resamples, images), to metrics, (metrics, resamples)."""


def _means_over_seeds(statistics: Sequence[Sequence[Statistics]], counts: np.ndarray) -> np.ndarray:
    """Return the metrics of each side, (sides, metrics, resamples)."""
    return np.array([np.mean([of(counts) for of in side], axis=0) for side in statistics])


def _statistics(one: Evaluation, score: str, metrics: Sequence[str]) -> Statistics:
    """Return what gives a run's metrics of any resample of its images."""
    scores, fake = np.asarray(one.values(score), np.float64), one.values("label") == 1
    ranked = RankedImages(scores, fake)
    thresholds = {
        "at_0_5": 0.5,
        "at_threshold": calibrated_threshold(one, score),
    }
    called = {name: scores >= at for name, at in thresholds.items()}

    def of(counts: np.ndarray) -> np.ndarray:
        found = dict(zip(("ap", "auc"), ranked.ap_and_auc(counts), strict=True))
        for name, is_called in called.items():
            right = counts @ (is_called == fake).astype(np.float64)
            found[f"accuracy_{name}"] = 100 * right / counts.sum(axis=1)
            both = counts @ (is_called & fake).astype(np.float64)
            either = counts @ (is_called.astype(np.float64) + fake)
            found[f"f1_{name}"] = 2 * both / either
        return np.array([found[name] for name in metrics])

    return of


def _groups(names: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return each generator with the images that are of it, and of several all together."""
    groups = [(str(name), names == name) for name in sorted(set(names.tolist()))]
    return [*groups, *([(OVERALL, np.ones(len(names), bool))] if len(groups) > 1 else [])]


def _ranked(
    generator: str, name: str, found: PairedStatistics, metric: Metric
) -> Iterator[RankedMean]:
    for side, value in enumerate(found.values.tolist()):
        low, high = np.clip(found.interval(side), metric.lowest, metric.highest).tolist()
        yield RankedMean(
            generator,
            name,
            found.images,
            side,
            value,
            Interval(low, high),
            found.rank(side),
            found.ranks(side),
        )


def _differences(generator: str, metric: str, found: PairedStatistics) -> Iterator[PairDifference]:
    pairs = list(combinations(range(len(found.values)), 2))
    differences = [found.difference(*pair) for pair in pairs]
    corrected = holm([one.p_value for one in differences])
    for pair, one, p_value in zip(pairs, differences, corrected, strict=True):
        yield PairDifference(generator, metric, found.images, pair, one, p_value)
