"""Cells: runs that differ in their seed alone on one generator of a dataset, and means of cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.evaluation.evaluation import Evaluation, in_common, merged
from declip_pipeline.evaluation.groups import (
    SEED,
    GeneratorKey,
    Group,
    group_by_fields,
    is_in_domain,
    learned_generators,
)
from declip_pipeline.evaluation.intervals import (
    Figures,
    detection_figures,
    intervals_over_cells,
    localization_figures,
    seed_mean,
)
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval
from declip_pipeline.training.learning import MARK

ID, OOD = "ID", "OOD"
DOMAINS = (ID, OOD)

UNSTATED = "training not stated"
"""Domain of maps whose tool has no stated training."""

DOMAIN = "domain"
"""Field that is "ID" where a run learned the generator of the dataset, else "OOD"; see `UNSTATED`.
"""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval, in the same unit; NaN where there is none.

    Attributes:
        value: Mean over cells of their means over seeds.
        interval: Its interval, of the same mean.
        by_seed: The mean over cells of each seed that all cells have.
        cells: Number of cells; a cell is what runs that differ in their seed, trained alike, give
            on one generator of a dataset.
        mark: "!" where a run of any of them learned nothing, otherwise "".
    """

    value: float = float("nan")
    interval: Interval = field(default=NO_INTERVAL)
    by_seed: tuple[float, ...] = ()
    cells: int = 0
    mark: str = ""

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN for fewer than two."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else float("nan")

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        return replace(
            self,
            value=self.value * factor,
            interval=Interval(*(end * factor for end in self.interval)),
            by_seed=tuple(value * factor for value in self.by_seed),
        )


@dataclass(frozen=True, eq=False)
class Cell:
    """Runs that differ in their seed alone, on one generator of a dataset.

    Attributes:
        seeds: An evaluation for each seed, on the same images in the same order.
        fields: All that is configured, what they were trained and tested on, and `domain`.
        learned: The generators that the runs learned, by dataset.
        left_out: Number of images that some seed lacks.
    """

    seeds: tuple[Evaluation, ...]
    fields: dict[str, Any]
    learned: frozenset[GeneratorKey]
    left_out: int = 0

    def figures(self, score: str = MEAN_SIGMOID) -> Figures:
        """Return means and intervals: `localization_figures` or `detection_figures`."""
        if self.seeds[0].task == "detection":
            return detection_figures(self.seeds, score)
        return localization_figures(self.seeds)

    def means(self, metric: str, score: str) -> dict[int | None, float]:
        """Return the mean of each seed; none where no image has a fake pixel."""
        found = {one.seed: seed_mean(one, metric, score) for one in self.seeds}
        return {seed: value for seed, value in found.items() if value is not None}


def cells_of(
    evaluations: Sequence[Evaluation],
    *,
    aliases: Mapping[str, str] | None = None,
    by_seed: bool = False,
) -> list[Cell]:
    """Return the cells that every table is made of.

    A run and store given twice count once. Stores of one dataset with the same generator, in the
    same view and dtype, are one: their images are averaged together.

    Args:
        evaluations: Evaluations of runs, of one task and split.
        aliases: Names that stand for one generator; see `generator_key`.
        by_seed: Keep the seeds apart.
    """
    aliases = aliases or {}
    known = {
        store.sha256: (store.dataset, store.generators)
        for one in evaluations
        for store in one.stores
    }
    parts = [
        (part, generator)
        for one in merged(evaluations)
        for part in _by_dataset_and_view(one)
        for generator in part.generators
    ]

    def fields_of(part: tuple[Evaluation, str]) -> dict[str, Any]:
        one, generator = part
        dataset = one.stores[0].dataset
        learned = learned_generators(one.config, known, aliases)
        return {
            **one.fields,
            "generator": generator,
            "train_on": list(one.trained_on),
            DOMAIN: _domain(learned, dataset, generator, aliases),
            "learned": sorted(([*key] for key in learned), key=str),
        }

    found = []
    for group in group_by_fields(parts, fields_of, ignored=() if by_seed else (SEED,)):
        seeds: dict[Any, Evaluation] = {}
        for one, generator in group.members:
            seeds.setdefault(one.seed, one.of(generator))
        ordered = sorted(seeds.values(), key=lambda one: one.seed or 0)
        same, left_out = in_common(ordered)
        learned = learned_generators(ordered[0].config, known, aliases)
        found.append(Cell(tuple(same), group.fields, learned, left_out))
    return found


def estimates(
    cells: Sequence[Cell], metrics: Sequence[str], score: str = MEAN_SIGMOID
) -> dict[str, Estimate]:
    """Return the mean over cells of their means over seeds, with its interval, by metric.

    Args:
        cells: Cells; those without an image that has a fake pixel are left out.
        metrics: As in `Evaluation.mean`.
        score: For detection: the image score.
    """
    kept = [cell for cell in cells if cell.means(metrics[0], score)]
    intervals = intervals_over_cells([cell.seeds for cell in kept], metrics, score)
    return {
        name: replace(mean_of_cells(kept, name, score), interval=intervals[name])
        for name in metrics
    }


def cell_estimate(cell: Cell, metric: str, score: str = MEAN_SIGMOID) -> Estimate:
    """Return the estimate of a single cell, with the interval of its `figures`."""
    if not cell.means(metric, score):
        return Estimate()
    figures = cell.figures(score)
    ends = (
        figures[f"{metric}_interval"]
        if cell.seeds[0].task == "detection"
        else (figures[f"{metric}_low"], figures[f"{metric}_high"])
    )
    interval = Interval(*(float("nan") if end is None else float(end) for end in ends))
    return replace(mean_of_cells([cell], metric, score), interval=interval)


def mean_of_cells(cells: Sequence[Cell], metric: str, score: str = MEAN_SIGMOID) -> Estimate:
    """Return the mean of `estimates` without its interval."""
    means = [own for cell in cells if (own := cell.means(metric, score))]
    if not means:
        return Estimate()
    seeds = [seed for seed in means[0] if all(seed in own for own in means)]
    by_seed = tuple(fmean(own[seed] for own in means) for seed in seeds)
    value = fmean(fmean(own.values()) for own in means)
    is_marked = any(one.problem for cell in cells for one in cell.seeds)
    return Estimate(value, by_seed=by_seed, cells=len(means), mark=MARK if is_marked else "")


def seed_groups(evaluations: Sequence[Evaluation]) -> list[Group[Evaluation]]:
    """Group evaluations of runs that differ in their seed alone, on the same stores.

    Members are sorted by seed, each seed once, restricted to the images that all of them have.
    """

    def fields_of(one: Evaluation) -> dict[str, Any]:
        return {**one.fields, "store": [store.sha256 for store in one.stores]}

    found = []
    for group in group_by_fields(evaluations, fields_of):
        seeds: dict[Any, Evaluation] = {}
        for one in group.members:
            seeds.setdefault(one.seed, one)
        ordered = sorted(seeds.values(), key=lambda one: one.seed or 0)
        found.append(replace(group, members=tuple(in_common(ordered)[0])))
    return found


def _domain(
    learned: frozenset[GeneratorKey], dataset: str, generator: str, aliases: Mapping[str, str]
) -> str:
    if not learned:
        return UNSTATED
    return ID if is_in_domain(learned, dataset, generator, aliases) else OOD


def _by_dataset_and_view(one: Evaluation) -> list[Evaluation]:
    """Split an evaluation by dataset, view and dtype of its stores."""
    parts: dict[tuple[str, str, str], list[str]] = {}
    for store in one.stores:
        key = store.dataset, store.view, store.dtype
        parts.setdefault(key, []).append(store.location)
    if len(parts) == 1:
        return [one]
    found = []
    for locations in parts.values():
        table, calibration, real = (
            some.filter(pc.is_in(some.column("store").cast(pa.string()), pa.array(locations)))
            for some in (one.table, one.calibration, one.real)
        )
        stores = tuple(store for store in one.stores if store.location in locations)
        found.append(replace(one, stores=stores, table=table, calibration=calibration, real=real))
    return found
