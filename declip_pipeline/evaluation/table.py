"""Tables of means with their intervals, by what is configured; no mean mixes configurations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
)
from declip_pipeline.evaluation.configurations import (
    DERIVED,
    IMPLIED,
    PLACE,
    TESTED,
    labelled_cells,
)
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import (
    RUN_FIELDS,
    SEED,
    TRAINING,
    Group,
    field_text,
    group_by_fields,
)
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.files import sha256_of_json

TABLE_FIELDS = (*RUN_FIELDS, *TESTED, "view", "dtype", DOMAIN)
"""Fields that tables can have as rows and columns."""

MEAN = "mean"
"""Name of the column of means over the cells of a row."""

_AVERAGED = (*TESTED, *TRAINING)


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
    cells = labelled_cells(cells, named)
    for name in (*named, *averaged):
        if name not in (*TABLE_FIELDS, "training_stores"):
            raise UnknownNameError("field", name, TABLE_FIELDS)
    configured = [name for name in averaged if name not in _AVERAGED]
    if configured:
        raise InputError(
            f"a mean over {', '.join(configured)} would mix configurations; averaged are the seeds "
            f"and, where they are neither rows nor columns, {', '.join(_AVERAGED)}"
        )
    known = dict.fromkeys(n for cell in cells for n in cell.fields if n not in DERIVED)
    label = partial(_label, rows=rows, columns=columns)
    places: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault(label(cell), []).append(cell)
    apart = [
        name
        for name in known
        if name not in (*named, *averaged, DOMAIN, PLACE)
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


def _titles(groups: Sequence[Group[Cell]]) -> list[str]:
    """Return the title of each group without its domain, and without hashes that are not needed."""
    domains = [str(group.fields.get(DOMAIN)) for group in groups]
    for hashes in ((*IMPLIED, "training_stores"), ()):
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
