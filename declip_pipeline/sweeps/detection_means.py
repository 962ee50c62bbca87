"""Detection over several runs: over seeds, and the means in domain and out of domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import numpy as np

from declip_pipeline.compute import derived_seed
from declip_pipeline.evaluation.detection import MEAN_SIGMOID, PictureScores
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval, percentile_interval
from declip_pipeline.metrics.detection_intervals import RankedPictures
from declip_pipeline.metrics.resampling import drawn_deviations, resampled_counts
from declip_pipeline.sweeps.detection_evaluation import DetectionEvaluation, DetectionFigures

METRICS = ("ap", "auc")

# A generator, what runs were trained on, their kind, the store, and the pictures.
_Group = tuple[str, tuple[str, ...], str, str, tuple[str, ...]]


@dataclass(frozen=True)
class DomainMean:
    """A mean over cells, 0 to 1, NaN of none: a run's figure on a generator's fakes and all real
    pictures; runs that differ in their seed, or share a cell otherwise, are averaged first."""

    value: float
    interval: Interval
    cells: int


@dataclass(frozen=True)
class _Cell:
    """Runs that differ in their seed, on the fakes of one generator (None for all) and the real
    pictures; `weight` is the share of each in a mean."""

    runs: Sequence[DetectionEvaluation]
    generator: str | None
    score: str
    weight: float

    @cached_property
    def pictures(self) -> list[PictureScores]:
        """Of the first run; those of the others are the same."""
        return self.of(self.runs[0])

    def of(self, run: DetectionEvaluation) -> list[PictureScores]:
        """A run's pictures."""
        every = run.results
        return [one for one in every if not one.label or self.generator in (None, one.generator)]

    @cached_property
    def ranked(self) -> list[RankedPictures]:
        """The pictures as each run ranks them."""
        fake = np.array([picture.label == 1 for picture in self.pictures])
        scores = [[one.scores[self.score] for one in self.of(run)] for run in self.runs]
        return [RankedPictures(np.array(some), fake) for some in scores]


def detection_over_seeds(
    group: Sequence[DetectionEvaluation],
) -> tuple[dict[str, dict[str, DetectionFigures]], dict[str, DetectionFigures]]:
    """Figures over scenes and seeds by generator and of all pictures, each by name of score.

    group: runs that differ in their seed only, judged on the same pictures. Figures are `fake` and
    `real` (pictures), and `ap`, `auc` (0 to 1), `accuracy_at_0_5` and `accuracy_at_threshold`
    (percent), means over seeds, each with its standard deviation `_spread`; the first two have
    `_interval`s of 95% over scenes and seeds. Each seed has a threshold of its own.
    """
    by_generator = {
        name: {score: _figures(group, name, score) for score in scores}
        for name, scores in group[0].by_generator.items()
    }
    return by_generator, {score: _figures(group, None, score) for score in group[0].overall}


def detection_domain_means(
    evaluations: Sequence[DetectionEvaluation], score: str = MEAN_SIGMOID
) -> dict[str, tuple[DomainMean, DomainMean]]:
    """The means of `ap` and `auc` in domain (generators that a run learned) and out of domain.

    Scenes, fake and real pictures alike, are resampled once for all cells of a dataset, and runs
    that differ in their seed only are too, as in `matrix_intervals`.
    """
    in_domain, out_of_domain = [
        _means_of_cells(
            [
                (name, one)
                for one in evaluations
                for name in one.by_generator
                if (name in one.trained_on) == learned
            ],
            score,
        )
        for learned in (True, False)
    ]
    return dict(zip(METRICS, zip(in_domain, out_of_domain, strict=True), strict=True))


def detection_matrix_intervals(
    evaluations: Sequence[DetectionEvaluation], metric: str = "ap", score: str = MEAN_SIGMOID
) -> tuple[Interval, Interval]:
    """The intervals of `detection_domain_means` of "ap" or "auc": of ID and of OOD."""
    in_domain, out_of_domain = detection_domain_means(evaluations, score)[metric]
    return in_domain.interval, out_of_domain.interval


def _figures(
    group: Sequence[DetectionEvaluation], generator: str | None, score: str
) -> DetectionFigures:
    own = [(one.overall if generator is None else one.by_generator[generator]) for one in group]
    figures = [scores[score] for scores in own]
    found: DetectionFigures = {name: figures[0][name] for name in ("fake", "real")}
    for name in (*METRICS, "accuracy_at_0_5", "accuracy_at_threshold"):
        values = [one[name] for one in figures]
        found[name], found[f"{name}_spread"] = fmean(values), stdev(values)
    resampled = _resampled([_Cell(group, generator, score, 1 / len(group))])
    for name, some in zip(METRICS, resampled, strict=True):
        found[f"{name}_interval"] = _interval(some)
    return found


def _means_of_cells(
    members: Sequence[tuple[str, DetectionEvaluation]], score: str
) -> list[DomainMean]:
    """Of AP and of AUC."""
    per_cell: dict[tuple[str, tuple[str, ...]], list[DetectionFigures]] = {}
    datasets: dict[str, dict[_Group, list[DetectionEvaluation]]] = {}
    for name, one in members:
        per_cell.setdefault((name, one.trained_on), []).append(one.by_generator[name][score])
        pictures = tuple(result.id for result in one.results)
        key = (name, one.trained_on, one.kind, one.store, pictures)
        datasets.setdefault(one.dataset, {}).setdefault(key, []).append(one)
    if not members:
        return [DomainMean(float("nan"), NO_INTERVAL, 0) for _ in METRICS]
    total = np.zeros((len(METRICS), 1))
    for dataset, groups in datasets.items():
        cells = [
            _Cell(runs, name, score, 1 / (len(per_cell[name, learned]) * len(per_cell)))
            for (name, learned, *_), runs in groups.items()
        ]
        total = total + _resampled(cells, derived_seed(0, dataset))
    return [
        DomainMean(
            fmean(fmean(one[metric] for one in figures) for figures in per_cell.values()),
            _interval(resampled),
            len(per_cell),
        )
        for metric, resampled in zip(METRICS, total, strict=True)
    ]


def _resampled(cells: Sequence[_Cell], seed: int = 0) -> np.ndarray:
    """Sums of resampled AP and AUC over runs of cells of one dataset: (2, resamples) float64."""
    every = {one.id: one for cell in cells for one in cell.pictures}
    place = {name: number for number, name in enumerate(every)}
    places = [np.array([place[one.id] for one in cell.pictures]) for cell in cells]
    blocks = []
    for counts in resampled_counts(
        np.array([one.scene for one in every.values()], dtype=np.str_),
        strata=np.array([one.label for one in every.values()]),
        seed=seed,
    ):
        # (2, resamples), summed over runs.
        block = np.zeros((len(METRICS), len(counts)))
        for cell, own in zip(cells, places, strict=True):
            for ranked in cell.ranked:
                block += cell.weight * ranked.ap_and_auc(counts[:, own])
        blocks.append(block)
    if not blocks:
        return np.full((len(METRICS), 1), np.nan)
    total = np.concatenate(blocks, axis=1)
    for cell, own in zip(cells, places, strict=True):
        if len(cell.runs) > 1:
            once = np.ones((1, len(own)))
            of_seeds = np.concatenate([ranked.ap_and_auc(once) for ranked in cell.ranked], axis=1)
            first = cell.runs[0]
            alike = derived_seed(0, "+".join(first.trained_on), first.kind)
            for number, values in enumerate(of_seeds):
                drawn = drawn_deviations(values, total.shape[1], alike)
                total[number] += cell.weight * len(cell.runs) * drawn
    return total


def _interval(resampled: np.ndarray) -> Interval:
    """Cut to what AP and AUC can be."""
    return Interval(*np.clip(percentile_interval(resampled), 0.0, 1.0).tolist())
