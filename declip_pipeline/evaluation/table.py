"""Tables of means with their intervals, by what is configured; no mean mixes configurations."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.cells import (
    DOMAIN,
    DOMAINS,
    UNSTATED,
    Cell,
    Estimate,
    cell_estimate,
    cells_of,
    estimates,
    mean_of_cells,
)
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import (
    MAPS,
    METHOD,
    RUN_FIELDS,
    SEED,
    TRAINING,
    Group,
    field_text,
    group_by_fields,
    is_in_domain,
)
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.files import sha256_of_json
from declip_pipeline.metrics.bootstrap import Interval

TESTED = ("dataset", "generator")
"""Fields of what a run was tested on."""

TABLE_FIELDS = (*RUN_FIELDS, *TESTED, "view", "dtype", DOMAIN)
"""Fields that tables can have as rows and columns."""

MEAN = "mean"
"""Name of the column of means over the cells of a row."""

_AVERAGED = (*TESTED, *TRAINING)
# Fields that follow from the method, or nearly so: no title needs them.
_IMPLIED = ("weights", "preprocessing", "widths", "ensemble", "maps_are", "maps_key")
# Where the maps of a tool lie, another place for each training of it.
_PLACE = "folder"
# Fields that follow from others.
_DERIVED = ("learned", "tested")


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
    def marked_rows(self) -> tuple[str, ...]:
        """Names of the rows; with a mark where a cell has one."""
        return tuple(
            self._marked(row, [(row, column) for column in self.columns]) for row in self.rows
        )

    @property
    def marked_columns(self) -> tuple[str, ...]:
        """Names of the columns; with a mark where a cell has one."""
        return tuple(
            self._marked(column, [(row, column) for row in self.rows]) for column in self.columns
        )

    @property
    def is_marked(self) -> bool:
        """Return whether a cell has a mark."""
        return any(one.mark for one in self.cells.values())

    def _marked(self, name: str, places: Sequence[tuple[str, str]]) -> str:
        return name + max(self.cell(*place).mark for place in places)

    @property
    def values(self) -> np.ndarray:
        """Means, (R, C) float64, NaN where a cell is missing."""
        rows = [[self.cell(row, column).value for column in self.columns] for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(len(self.rows), len(self.columns))


@dataclass(frozen=True)
class Matrix:
    """Train x test matrix of runs.

    Attributes:
        table: Rows are generators tested on, columns generators trained on ("lama+ldm");
            their intervals are computed on demand.
        in_domain: (R, C) bool, True where the column learned the generator of the row.
        domains: By metric, the means over the cells in domain and over those out of domain.
        unstated: Columns of maps whose tool has no stated training.
    """

    table: Table
    in_domain: np.ndarray
    domains: Mapping[str, tuple[Estimate, Estimate]]
    unstated: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Decoder and features of its runs, and what else differs from the other matrices."""
        return self.table.title

    @property
    def domain(self) -> np.ndarray:
        """Domain of each cell, (R, C) float64: 1 in domain, 0 out of domain, NaN not stated."""
        stated = [name not in self.unstated for name in self.table.columns]
        return np.where(stated, self.in_domain.astype(np.float64), np.nan)

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Intervals of the two means of the table's metric."""
        inside, outside = next(iter(self.domains.values()))
        return inside.interval, outside.interval


def two_way_tables(
    evaluations: Sequence[Evaluation],
    rows: str | Sequence[str],
    columns: str | Sequence[str],
    *,
    metric: str = "iou",
    score: str = MEAN_SIGMOID,
    over: Collection[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    with_mean: bool = False,
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
        with_mean: Add a column `MEAN`, the mean of all cells of a row, in domain and out of it.

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
        if name not in (*named, *averaged, DOMAIN, _PLACE)
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
    if DOMAIN in apart:
        groups.sort(key=lambda group: (*DOMAINS, UNSTATED).index(group.fields[DOMAIN]))
    corner = f"{', '.join(rows)} \\ {', '.join(columns)}"
    found = []
    for group, about in zip(groups, _titles(groups), strict=True):
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
            (*DOMAINS, *{UNSTATED}.intersection(some))
            if fields == [DOMAIN]
            else tuple(dict.fromkeys(some))
            for fields, some in zip((rows, columns), zip(*members, strict=True), strict=True)
        ]
        if with_mean:
            for row in names[0]:
                some = [
                    cell for (own, _), cells_ in members.items() if own == row for cell in cells_
                ]
                means[row, MEAN] = estimates(some, [metric], score)[metric]
            names[1] = (*names[1], MEAN)
        domain = str(group.fields[DOMAIN]) if DOMAIN in apart else ""
        title = ", ".join(filter(None, [domain, about]))
        found.append(Table(corner, names[0], names[1], means, title))
    return found


def matrices(
    evaluations: Sequence[Evaluation],
    *,
    metrics: Sequence[str] = ("iou",),
    score: str = MEAN_SIGMOID,
    aliases: Mapping[str, str] | None = None,
    with_intervals: bool = False,
    names: Mapping[Path, str] = MappingProxyType({}),
) -> list[Matrix]:
    """Return a train x test matrix for each configuration of runs.

    Maps whose tool has no stated training are columns of every matrix, named by the tool, and in
    neither of the two means.

    Args:
        evaluations: Evaluations of runs, of one task and split.
        metrics: Metrics of the means in and out of domain; the first is that of the table.
        score: For detection: the image score.
        aliases: Names that stand for one generator; see `generator_key`.
        with_intervals: Also compute the interval of each cell.
        names: Names of configurations by the folders of their runs; those of other runs are told
            from what is configured.

    Returns:
        Matrices with sorted rows and columns; cells are in the order of the evaluations.
    """
    cells = _labelled(cells_of(evaluations, aliases=aliases), ("generator", "train_on"))
    found = []
    trained = [cell for cell in cells if cell.learned]
    others = [cell for cell in cells if not cell.learned]
    groups = _configurations_by_name(trained, names)
    if not groups:
        groups = [("", one) for one in group_by_fields(others, lambda cell: {})]
        others = []
    for name, own in groups:
        group = replace(own, members=(*own.members, *others))
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
        unstated = tuple(column for column in columns if not learned[column])
        method = "maps" if unstated == columns else group.members[0].seeds[0].method
        title = ", ".join(filter(None, [method, group.title(leaving_out=(*METHOD, *_IMPLIED))]))
        title = name or title
        table = Table("test \\ train", rows, columns, means, title)
        inside, outside = (
            estimates(
                [one for one in group.members if one.fields[DOMAIN] == domain], metrics, score
            )
            for domain in DOMAINS
        )
        domains = {name: (inside[name], outside[name]) for name in metrics}
        found.append(Matrix(table, np.array(in_domain, bool), domains, unstated))
    return found


def _configurations_by_name(
    cells: Sequence[Cell], names: Mapping[Path, str]
) -> list[tuple[str, Group[Cell]]]:
    """Return the configurations of cells, each with the name of its runs, "" without one."""
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(names.get(cell.seeds[0].run, ""), []).append(cell)
    return [
        (name, group)
        for name, own in by_name.items()
        for group in (group_by_fields(own, lambda cell: {}) if name else configurations(own))
    ]


def configurations(cells: Sequence[Cell]) -> list[Group[Cell]]:
    """Group cells whose runs differ in their seed and in what they learned alone.

    Runs come first. Maps of other tools have no fields of a training, which all runs would then
    differ in.
    """
    ignored = {*TESTED, *TRAINING, DOMAIN, *_DERIVED, _PLACE}
    kinds: tuple[list[Cell], list[Cell]] = ([], [])
    for cell in cells:
        kinds[MAPS in cell.seeds[0].config].append(cell)
    return [
        group
        for some in kinds
        for group in group_by_fields(some, lambda cell: cell.fields, ignored=ignored)
    ]


def domain_name(known: float) -> str:
    """Return the name of a cell's domain, see `Matrix.domain`; "" where it is not stated."""
    return "" if np.isnan(known) else DOMAINS[0 if known else 1]


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


def _labelled(cells: Sequence[Cell], named: Collection[str]) -> list[Cell]:
    """Return cells whose `generator` and `train_on` are names that differ where they should.

    A generator is named with its dataset where another dataset has one of the same name, and so is
    what runs learned; trainings on different stores of a dataset are named by these. Maps that are
    called as a training is are told apart from it; of theirs no dataset is known, so that they
    name no run otherwise.
    """
    datasets: dict[str, set[str]] = {}
    trainings: dict[str, dict[str, dict[str, set[tuple[str, ...]]]]] = {}
    for cell in cells:
        one = cell.fields
        datasets.setdefault(one["generator"], set()).add(one["dataset"])
        of_names = trainings.setdefault("+".join(one["train_on"]), {})
        if MAPS in cell.seeds[0].config:
            continue
        of_features = of_names.setdefault(str(one["learned"]), {})
        of_features.setdefault(_features_of(one), set()).add(_stores_of(one))
    found = []
    for cell in cells:
        one = cell.fields
        generator, column = one["generator"], "+".join(one["train_on"]) or cell.seeds[0].method
        if len(datasets[generator]) > 1 and "dataset" not in named:
            generator = f"{one['dataset']}/{generator}"
        if not cell.learned and column in trainings:
            column += " (maps)"
        if MAPS not in cell.seeds[0].config:
            of_names = trainings["+".join(one["train_on"])]
            if len(of_names) > 1:
                keys = one["learned"]
                column = "+".join(f"{where}/{name}" if where else name for where, name in keys)
            # Other features come from other stores, and make no other training set.
            own_stores = of_names[str(one["learned"])][_features_of(one)]
            if len(own_stores) > 1 and "train_on" in named:
                column += f" ({field_text(_stores_of(one))})"
        fields = {**one, "generator": generator, "train_on": column}
        # As `is_in_domain` takes it.
        fields["tested"] = [one["dataset"], one["generator"]]
        found.append(replace(cell, fields=fields))
    return found


def _stores_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stores of a training, each once: layers of one store are no other training set."""

    def hashes_in(part: Any) -> Iterator[str]:
        """Yield hashes, of a layer, of several, or of an ensemble's members."""
        if isinstance(part, str):
            yield part
        else:
            for one in part or ():
                yield from hashes_in(one)

    return tuple(dict.fromkeys(hashes_in(fields.get("training_stores"))))


def _features_of(fields: Mapping[str, Any]) -> str:
    names = ("backbone", "weights", "preprocessing", "training_dtype")
    return sha256_of_json([fields.get(name) for name in names])


def _titles(groups: Sequence[Group[Cell]]) -> list[str]:
    """Return the title of each group without its domain, and without hashes that are not needed."""
    domains = [str(group.fields.get(DOMAIN)) for group in groups]
    for hashes in ((*_IMPLIED, "training_stores"), ()):
        found = [group.title(leaving_out=(DOMAIN, *hashes)) for group in groups]
        if len(set(zip(domains, found, strict=True))) == len(groups):
            break
    return found


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _label(cell: Cell, rows: Sequence[str], columns: Sequence[str]) -> tuple[str, str]:
    def text(names: Sequence[str]) -> str:
        return ", ".join(field_text(cell.fields.get(name)) for name in names)

    return text(rows), text(columns)
