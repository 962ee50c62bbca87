"""A study's tables, in percent."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from declip_pipeline.evaluation.cells import DOMAIN, DOMAINS
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.evaluation.table import Table, two_way_tables

StudyMetric = Literal[
    "iou",
    "f1_best",
    "f1_fixed",
    "ap",
    "iou_valid_threshold",
    "iou_min_region",
    "f1",
    "f1_optimal",
    "auc",
    "mcc",
    "precision",
    "recall",
    "iou_pooled",
    "f1_pooled",
    "detection_ap",
    "detection_auc",
]
DETECTION = "detection_"
"""Prefix of the metrics of detection."""

MATRIX = (("generator",), ("train_on",))
"""Rows and columns of a train x test matrix."""

TESTED_AND_TRAINED = "tested on \\ trained on"
OURS = "ours"


@dataclass(frozen=True)
class StudyTable:
    """A table of a study.

    Attributes:
        table: Estimates in percent.
        in_domain: Of a matrix, the cells in domain, (R, C) bool.
        means: Of a matrix, its means in domain and out of domain: a row "ours".
    """

    table: Table
    in_domain: np.ndarray | None = None
    means: Table | None = None


def study_tables(
    evaluations: Sequence[Evaluation],
    rows: Sequence[str],
    columns: Sequence[str],
    metric: StudyMetric,
    *,
    over: Collection[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    with_mean: bool = False,
) -> list[StudyTable]:
    """Return the tables of a study; several where runs differ in more than a table shows.

    A matrix has the generators that were learned first, in the order of the columns, then others,
    "b-9" before "b-10". Arguments as in `two_way_tables`.
    """
    name = metric.removeprefix(DETECTION)
    is_detection = metric.startswith(DETECTION)
    factor = 100 if is_detection else LOCALIZATION_METRICS[name].percent
    if (tuple(rows), tuple(columns)) != MATRIX:
        tables = two_way_tables(
            evaluations,
            rows,
            columns,
            metric=name,
            score=MEAN_SIGMOID,
            over=over,
            aliases=aliases,
            with_mean=with_mean,
        )
        if list(columns) == [DOMAIN]:
            tables = [replace(one, corner=", ".join(rows)) for one in tables]
        return [StudyTable(_scaled(one, factor)) for one in tables]
    found = []
    for matrix in matrices(
        evaluations, metrics=[name], score=MEAN_SIGMOID, aliases=aliases, with_intervals=True
    ):
        learned = list(dict.fromkeys(column for _, column in matrix.table.cells))
        tested = sorted(matrix.table.rows, key=_natural)
        ordered = [*(one for one in learned if one in tested), *tested]
        order = tuple(dict.fromkeys(ordered))
        places = [
            [matrix.table.rows.index(row) for row in order],
            [matrix.table.columns.index(column) for column in learned],
        ]
        table = Table(
            TESTED_AND_TRAINED, order, tuple(learned), matrix.table.cells, matrix.table.title
        )
        means = Table(
            "mean over cells",
            (OURS,),
            DOMAINS,
            {
                (OURS, domain): one
                for domain, one in zip(DOMAINS, matrix.domains[name], strict=True)
                if one.cells
            },
            matrix.table.title,
        )
        found.append(
            StudyTable(
                _scaled(table, factor),
                matrix.in_domain[np.ix_(*places)],
                _scaled(means, factor),
            )
        )
    return found


def _scaled(table: Table, factor: float) -> Table:
    cells = {place: one.scaled(factor) for place, one in table.cells.items()}
    return replace(table, cells=cells)


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
