"""Train x test matrices of runs, one for each configuration, with their means by domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import (
    DOMAIN,
    DOMAINS,
    Cell,
    Estimate,
    cell_estimate,
    cells_of,
    estimates,
    mean_of_cells,
)
from declip_pipeline.evaluation.configurations import IMPLIED, configurations, labelled_cells
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import METHOD, Group, group_by_fields, is_in_domain
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.evaluation.table import Table
from declip_pipeline.metrics.bootstrap import Interval


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
    cells = labelled_cells(cells_of(evaluations, aliases=aliases), ("generator", "train_on"))
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
        about = group.title(leaving_out=(*METHOD, *IMPLIED))
        title = name or ", ".join(filter(None, [method, about]))
        table = Table("test \\ train", rows, columns, means, title)
        inside, outside = (
            estimates(
                [one for one in group.members if one.fields[DOMAIN] == domain], metrics, score
            )
            for domain in DOMAINS
        )
        domains = {metric: (inside[metric], outside[metric]) for metric in metrics}
        found.append(Matrix(table, np.array(in_domain, bool), domains, unstated))
    return found


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
