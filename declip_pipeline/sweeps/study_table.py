"""A study's figures as a table: by generator, layer, decoder or whatever its runs differ in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from declip_pipeline.evaluation.detection import MEAN_SIGMOID
from declip_pipeline.evaluation.figure_table import Figure, FigureTable, averaged
from declip_pipeline.evaluation.figures import Figures
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval
from declip_pipeline.sweeps.cross_evaluation import Evaluation
from declip_pipeline.sweeps.detection_evaluation import DetectionEvaluation
from declip_pipeline.sweeps.detection_means import (
    detection_matrix_intervals,
    detection_over_seeds,
)
from declip_pipeline.sweeps.matrix_intervals import matrix_intervals
from declip_pipeline.sweeps.seed_groups import figures_over_seeds, seed_groups

IN_DOMAIN, OUT_OF_DOMAIN = "ID", "OOD"
AnyEvaluation = TypeVar("AnyEvaluation", Evaluation, DetectionEvaluation)

NONE = (NO_INTERVAL, NO_INTERVAL)
TESTED_AND_TRAINED = "tested on \\ trained on"


@dataclass(frozen=True)
class Judged:
    """A run, or runs that differ in their seed, on a store: a figure for each generator."""

    run: Path
    trained_on: tuple[str, ...]
    figures: Mapping[str, Figure]


def judged_runs(evaluations: Sequence[Evaluation], metric: str) -> list[Judged]:
    """One metric of evaluations in percent, runs that differ in their seed taken together."""
    found = []
    for group in seed_groups(evaluations):
        figures = group[0].figures if len(group) == 1 else figures_over_seeds(group)[0]
        named = {name: _figure(some, metric) for name, some in figures.items()}
        judged = {name: figure for name, figure in named.items() if figure is not None}
        found.append(Judged(group[0].run, group[0].trained_on, judged))
    return found


def detected_runs(evaluations: Sequence[DetectionEvaluation], metric: str) -> list[Judged]:
    """`ap` or `auc` of the mean sigmoid in percent, a generator's fakes against all real ones.

    Runs that differ in their seed are taken together.
    """
    found = []
    for group in seed_groups(evaluations):
        by_generator = group[0].by_generator if len(group) == 1 else detection_over_seeds(group)[0]
        figures = {
            name: Figure(
                100 * scores[MEAN_SIGMOID][metric],
                _scaled(Interval(*scores[MEAN_SIGMOID][f"{metric}_interval"]), metric),
            )
            for name, scores in by_generator.items()
        }
        found.append(Judged(group[0].run, group[0].trained_on, figures))
    return found


def generator_table(judged: Sequence[Judged]) -> FigureTable:
    """Rows: the generators tested on; columns: what each run learned ("ldm", "lama+ldm").

    Several kinds of runs, or stores, of a cell are averaged. Generators that were learned come
    first, in the order of the columns, then others, "b-9" before "b-10".
    """
    cells: dict[tuple[str, str], list[Figure]] = {}
    for one in judged:
        for generator, figure in one.figures.items():
            cells.setdefault((generator, "+".join(one.trained_on)), []).append(figure)
    columns = ["+".join(one.trained_on) for one in judged]
    tested = sorted({generator for one in judged for generator in one.figures}, key=_natural)
    rows = [*(column for column in columns if column in tested), *tested]
    return _table(TESTED_AND_TRAINED, rows, columns, cells)


def domain_table(
    judged: Sequence[Judged],
    corner: str,
    row_of: Mapping[Path, str],
    intervals: Mapping[str, tuple[Interval, Interval]],
) -> FigureTable:
    """Rows: what `row_of` says of a run; columns: the means in domain and out of domain.

    In domain are the generators that a run learned. A mean is one over cells: a run's figure on a
    generator, however many pictures that has (DeCLIP, section 4). `intervals` are those of a row's
    two means.
    """
    cells: dict[tuple[str, str], list[Figure]] = {}
    for one in judged:
        for generator, figure in one.figures.items():
            column = IN_DOMAIN if generator in one.trained_on else OUT_OF_DOMAIN
            cells.setdefault((row_of[one.run], column), []).append(figure)
    table = _table(corner, [row_of[one.run] for one in judged], [IN_DOMAIN, OUT_OF_DOMAIN], cells)
    means = {
        (row, column): Figure(
            figure.value, dict(zip(table.columns, intervals.get(row, NONE), strict=True))[column]
        )
        for (row, column), figure in table.cells.items()
    }
    return FigureTable(corner, table.rows, table.columns, means)


def domain_intervals(
    evaluations: Sequence[Evaluation], metric: str, row_of: Mapping[Path, str]
) -> dict[str, tuple[Interval, Interval]]:
    """The intervals of a row's mean in domain and of that out of domain, in percent."""
    return {
        row: _both_scaled(matrix_intervals(own, metric), metric)
        for row, own in _by_row(evaluations, row_of).items()
    }


def detection_domain_intervals(
    evaluations: Sequence[DetectionEvaluation], metric: str, row_of: Mapping[Path, str]
) -> dict[str, tuple[Interval, Interval]]:
    """The same of `ap` or `auc` of whole pictures."""
    return {
        row: _both_scaled(detection_matrix_intervals(own, metric), metric)
        for row, own in _by_row(evaluations, row_of).items()
    }


def _by_row(
    evaluations: Sequence[AnyEvaluation], row_of: Mapping[Path, str]
) -> dict[str, list[AnyEvaluation]]:
    rows: dict[str, list[AnyEvaluation]] = {}
    for one in evaluations:
        rows.setdefault(row_of[one.run], []).append(one)
    return rows


def _both_scaled(intervals: tuple[Interval, Interval], metric: str) -> tuple[Interval, Interval]:
    inside, outside = intervals
    return _scaled(inside, metric), _scaled(outside, metric)


def _figure(figures: Figures, metric: str) -> Figure | None:
    value, low, high = (figures[name] for name in (metric, f"{metric}_low", f"{metric}_high"))
    if value is None:
        return None
    ends = Interval(*(float("nan") if end is None else end for end in (low, high)))
    return Figure(_share(metric) * value, _scaled(ends, metric))


def _scaled(interval: Interval, metric: str) -> Interval:
    return Interval(*(_share(metric) * end for end in interval))


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _share(metric: str) -> int:
    """What makes percent of a metric: IoU is that already."""
    return 1 if metric == "iou" else 100


def _table(
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Sequence[Figure]],
) -> FigureTable:
    figures = {place: averaged(some) for place, some in cells.items()}
    return FigureTable(corner, tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(columns)), figures)
