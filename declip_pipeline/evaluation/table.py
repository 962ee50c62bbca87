"""Tables of means with their intervals, by what is configured; no mean mixes configurations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.evaluation import Evaluation, in_common, merged
from declip_pipeline.evaluation.groups import (
    METHOD,
    RUN_FIELDS,
    SEED,
    TRAINING,
    GeneratorKey,
    Group,
    field_text,
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
from declip_pipeline.files import sha256_of_json
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval

ID, OOD = "ID", "OOD"
DOMAINS = (ID, OOD)
TESTED = ("dataset", "generator")
"""Fields of what a run was tested on."""

DOMAIN = "domain"
"""Field that is "ID" where a run learned the generator of the dataset, else "OOD"."""

TABLE_FIELDS = (*RUN_FIELDS, *TESTED, "view", "dtype", DOMAIN)
"""Fields that tables can have as rows and columns."""

_AVERAGED = (*TESTED, *TRAINING)
# Fields that follow from the method, or nearly so: no title needs them.
_IMPLIED = ("weights", "preprocessing", "widths")
# Fields that follow from others.
_DERIVED = ("learned", "tested")


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval, in the same unit; NaN where there is none.

    Attributes:
        value: Mean over cells of their means over seeds.
        interval: Its interval, of the same mean.
        by_seed: The mean over cells of each seed that all cells have.
        cells: Number of cells; a cell is what runs that differ in their seed, trained alike, give
            on one generator of a dataset.
    """

    value: float = float("nan")
    interval: Interval = field(default=NO_INTERVAL)
    by_seed: tuple[float, ...] = ()
    cells: int = 0

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


@dataclass(frozen=True)
class Table:
    """A table of estimates.

    Attributes:
        corner: What the rows and columns are.
        rows: Names of the rows.
        columns: Names of the columns.
        cells: Estimates by row and column; a missing one is NaN.
        title: What differs from the other tables that were made with it.
    """

    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Estimate]
    title: str = ""

    def cell(self, row: str, column: str) -> Estimate:
        """Return the estimate of a row and a column."""
        return self.cells.get((row, column), Estimate())

    @property
    def values(self) -> np.ndarray:
        """Means, (R, C) float64, NaN where a cell is missing."""
        rows = [[self.cell(row, column).value for column in self.columns] for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(len(self.rows), len(self.columns))


@dataclass(frozen=True)
class Matrix:
    """What runs learned by what they were tested on.

    Attributes:
        table: Rows are generators tested on, columns generators trained on ("lama+ldm");
            their intervals are computed on demand.
        in_domain: (R, C) bool, True where the column learned the generator of the row.
        domains: By metric, the means over the cells in domain and over those out of domain.
    """

    table: Table
    in_domain: np.ndarray
    domains: Mapping[str, tuple[Estimate, Estimate]]

    @property
    def title(self) -> str:
        """Decoder and features of its runs, and what else differs from the other matrices."""
        return self.table.title

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Intervals of the two means of the table's metric."""
        inside, outside = next(iter(self.domains.values()))
        return inside.interval, outside.interval


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
            DOMAIN: ID if is_in_domain(learned, dataset, generator, aliases) else OOD,
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
    return Estimate(value, by_seed=by_seed, cells=len(means))


def two_way_tables(
    evaluations: Sequence[Evaluation],
    rows: str | Sequence[str],
    columns: str | Sequence[str],
    *,
    metric: str = "iou",
    score: str = MEAN_SIGMOID,
    over: Collection[str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> list[Table]:
    """Return tables of rows by columns, one for each combination of the other fields.

    A cell is a mean over seeds, and over the fields in `over`. Where anything else differs within a
    cell, each of its values has a table of its own, titled by it.

    Args:
        evaluations: Evaluations of runs, of one task and split.
        rows: A field, or several, of `TABLE_FIELDS`: what is configured of a run (`layer`,
            `decoder`, `train_on`, `seed`, `learning_rate`), and what it was tested on
            (`dataset`, `generator`, `view`, `dtype`, `domain`).
        columns: As `rows`.
        metric: As in `Evaluation.mean`.
        score: For detection: the image score.
        over: Fields that are averaged, of `dataset`, `generator`, `train_on` and
            `training_stores`. By default all that are neither rows nor columns; a mean is then one
            in domain or out of domain, and these are two tables unless `domain` is a row or a
            column.
        aliases: Names that stand for one generator; see `generator_key`.

    Raises:
        UnknownNameError: For a field that is not one of these.
        InputError: For a field that is both a row and a column, or averaged as well; for a
            configured field to average.
    """
    rows, columns = _listed(rows), _listed(columns)
    named = [*rows, *columns]
    averaged = tuple(name for name in _AVERAGED if name not in named) if over is None else over
    twice = [name for name in named if named.count(name) > 1 or name in averaged]
    if twice or not rows or not columns:
        raise InputError(
            f"rows {', '.join(rows) or 'none'}, columns {', '.join(columns) or 'none'}, averaged "
            f"{', '.join(averaged) or 'none'}; expected rows and columns, and each field once"
        )
    cells = cells_of(evaluations, aliases=aliases, by_seed=SEED in named)
    cells = _labelled(cells, named)
    for name in (*named, *averaged):
        if name not in (*TABLE_FIELDS, "training_stores"):
            raise UnknownNameError("field", name, TABLE_FIELDS)
    configured = [name for name in averaged if name not in _AVERAGED]
    if configured:
        raise InputError(
            f"a mean over {', '.join(configured)} would mix configurations; averaged are the seeds "
            f"and, where they are neither rows nor columns, {', '.join(_AVERAGED)}"
        )
    known = dict.fromkeys(n for cell in cells for n in cell.fields if n not in _DERIVED)
    label = partial(_label, rows=rows, columns=columns)
    places: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault(label(cell), []).append(cell)
    apart = [
        name
        for name in known
        if name not in (*named, *averaged, DOMAIN)
        and any(
            len({sha256_of_json(one.fields.get(name)) for one in some}) > 1
            for some in places.values()
        )
    ]
    # Unless both are named, a mean over generators is one in domain or one out of domain.
    of_cells = {"generator", "train_on"} <= set(named) or not averaged
    if DOMAIN not in named and not of_cells:
        apart.insert(0, DOMAIN)
    groups = group_by_fields(
        cells, lambda cell: {name: cell.fields.get(name) for name in apart}, ignored=()
    )
    corner = f"{', '.join(rows)} \\ {', '.join(columns)}"
    found = []
    for group in groups:
        members: dict[tuple[str, str], list[Cell]] = {}
        for cell in group.members:
            members.setdefault(label(cell), []).append(cell)
        means = {
            place: cell_estimate(some[0], metric, score)
            if of_cells
            else estimates(some, [metric], score)[metric]
            for place, some in members.items()
        }
        names = [
            DOMAINS if fields == [DOMAIN] else tuple(dict.fromkeys(some))
            for fields, some in zip((rows, columns), zip(*members, strict=True), strict=True)
        ]
        domain = str(group.fields[DOMAIN]) if DOMAIN in apart else ""
        title = ", ".join(filter(None, [domain, group.title(leaving_out=[DOMAIN])]))
        found.append(Table(corner, names[0], names[1], means, title))
    return found


def matrices(
    evaluations: Sequence[Evaluation],
    *,
    metrics: Sequence[str] = ("iou",),
    score: str = MEAN_SIGMOID,
    aliases: Mapping[str, str] | None = None,
    with_intervals: bool = False,
) -> list[Matrix]:
    """Return a train x test matrix for each configuration of runs.

    Args:
        evaluations: Evaluations of runs, of one task and split.
        metrics: Metrics of the means in and out of domain; the first is that of the table.
        score: For detection: the image score.
        aliases: Names that stand for one generator; see `generator_key`.
        with_intervals: Also compute the interval of each cell.

    Returns:
        Matrices with sorted rows and columns; cells are in the order of the evaluations.
    """
    cells = _labelled(cells_of(evaluations, aliases=aliases), ("generator", "train_on"))
    ignored = {*TESTED, *TRAINING, DOMAIN, *_DERIVED}
    found = []
    for group in group_by_fields(cells, lambda cell: cell.fields, ignored=ignored):
        places = {
            (cell.fields["generator"], cell.fields["train_on"]): cell for cell in group.members
        }
        rows = tuple(sorted({row for row, _ in places}))
        columns = tuple(sorted({c for _, c in places}, key=lambda name: name.split("+")))
        tested = {cell.fields["generator"]: cell.fields["tested"] for cell in group.members}
        learned = {cell.fields["train_on"]: cell.learned for cell in group.members}
        in_domain = [
            [is_in_domain(learned[c], tested[r][0], tested[r][1], aliases or {}) for c in columns]
            for r in rows
        ]
        means = {
            place: cell_estimate(cell, metrics[0], score)
            if with_intervals
            else mean_of_cells([cell], metrics[0], score)
            for place, cell in places.items()
        }
        method = group.members[0].seeds[0].method
        title = ", ".join(filter(None, [method, group.title(leaving_out=(*METHOD, *_IMPLIED))]))
        table = Table("test \\ train", rows, columns, means, title)
        inside, outside = (
            estimates(
                [one for one in group.members if one.fields[DOMAIN] == domain], metrics, score
            )
            for domain in DOMAINS
        )
        domains = {name: (inside[name], outside[name]) for name in metrics}
        found.append(Matrix(table, np.array(in_domain, bool), domains))
    return found


def domain_estimates(
    evaluations: Sequence[Evaluation],
    *,
    metric: str = "iou",
    score: str = MEAN_SIGMOID,
    aliases: Mapping[str, str] | None = None,
) -> tuple[Estimate, Estimate]:
    """Return the means in domain and out of domain of runs of one configuration.

    Raises:
        InputError: For runs that differ in more than their seed and what they were trained on.
    """
    found = matrices(evaluations, metrics=[metric], score=score, aliases=aliases)
    if len(found) != 1:
        titles = "; ".join(one.title for one in found) or "none"
        raise InputError(f"{len(found)} configurations of runs ({titles}); expected one")
    return found[0].domains[metric]


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
        table, calibration = (
            some.filter(pc.is_in(some.column("store").cast(pa.string()), pa.array(locations)))
            for some in (one.table, one.calibration)
        )
        stores = tuple(store for store in one.stores if store.location in locations)
        found.append(replace(one, stores=stores, table=table, calibration=calibration))
    return found


def _labelled(cells: Sequence[Cell], named: Collection[str]) -> list[Cell]:
    """Return cells whose `generator` and `train_on` are names that differ where they should.

    A generator is named with its dataset where another dataset has one of the same name, and so is
    what runs learned; trainings on different stores of a dataset are named by these.
    """
    datasets: dict[str, set[str]] = {}
    trainings: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        one = cell.fields
        datasets.setdefault(one["generator"], set()).add(one["dataset"])
        of_names = trainings.setdefault("+".join(one["train_on"]), {})
        of_names.setdefault(str(one["learned"]), set()).add(str(one.get("training_stores")))
    found = []
    for cell in cells:
        one = cell.fields
        generator, column = one["generator"], "+".join(one["train_on"])
        of_names = trainings[column]
        if len(datasets[generator]) > 1 and "dataset" not in named:
            generator = f"{one['dataset']}/{generator}"
        if len(of_names) > 1:
            keys = one["learned"]
            column = "+".join(f"{where}/{name}" if where else name for where, name in keys)
        if len(of_names[str(one["learned"])]) > 1 and "train_on" in named:
            column += f" ({field_text(one.get('training_stores'))})"
        fields = {**one, "generator": generator, "train_on": column}
        # As `is_in_domain` takes it.
        fields["tested"] = [one["dataset"], one["generator"]]
        found.append(replace(cell, fields=fields))
    return found


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _label(cell: Cell, rows: Sequence[str], columns: Sequence[str]) -> tuple[str, str]:
    def text(names: Sequence[str]) -> str:
        return ", ".join(field_text(cell.fields.get(name)) for name in names)

    return text(rows), text(columns)
