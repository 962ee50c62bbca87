"""Sections of a page made of evaluations: matrices, means of configurations, and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from matplotlib import colormaps

from declip_pipeline.evaluation.cells import DOMAIN, DOMAINS, Estimate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.files import kept_in
from declip_pipeline.evaluation.matrices import Matrix, domain_name, matrices
from declip_pipeline.evaluation.metrics import METRICS
from declip_pipeline.evaluation.table import Table, two_way_tables
from declip_pipeline.reports.matrix import interval_text
from declip_pipeline.reports.matrix_figure import HEAT
from declip_pipeline.reports.page.charts import Chart, percent_chart
from declip_pipeline.reports.page.tables import (
    Column,
    PageCell,
    PageTable,
    estimate_cell,
    number_cell,
    table_of_estimates,
    text_cell,
)
from declip_pipeline.reports.robustness_panels import ROBUSTNESS_FILE, read_panels

MEAN_METRICS = ("iou", "f1_fixed", "ap")
"""Metrics whose means in domain and out of domain are in the table of configurations."""

LAYERS_WIDTH = 480.0
"""Width of the plot of few layers."""

DOMAIN_NAMES = dict(zip(DOMAINS, ("in domain", "out of domain"), strict=True))

DARK_INK, LIGHT_INK = "#1a1a1a", "#ffffff"
# Of a background on which both inks have the same contrast, by WCAG 2.
MIDDLE_LUMINANCE = 0.2


@dataclass(frozen=True)
class HeatCell:
    """Cell of a matrix: its text, colours, domain, and what is said on hover."""

    text: str
    background: str
    ink: str
    domain: str
    hover: str


@dataclass(frozen=True)
class DomainMean:
    """Mean over the cells of a domain, as text: its name, value and interval."""

    name: str
    text: str
    interval: str


@dataclass(frozen=True)
class HeatMatrix:
    """Train x test matrix as it is drawn, with its means and its table.

    Attributes:
        title: The configuration of its runs.
        columns: What was learned.
        rows: What was tested on, and its cells.
        means: The means in domain and out of domain.
        table: The same figures with their intervals.
        is_marked: Whether a run learned nothing.
        unstated: Columns of maps of which no training is stated.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]
    means: Sequence[DomainMean]
    table: PageTable
    is_marked: bool
    unstated: Sequence[str]


@dataclass(frozen=True)
class Curve:
    """Charts that stand together, and their figures as a table."""

    title: str
    charts: Sequence[Chart]
    table: PageTable


def localization_matrices(
    evaluations: Sequence[Evaluation],
    aliases: Mapping[str, str],
    names: Mapping[Path, str] = MappingProxyType({}),
) -> list[Matrix]:
    """Return the matrix of each configuration, with intervals, the best in domain first.

    Runs that have a name in `names` are configurations by their names.
    """
    found = matrices(
        evaluations, metrics=MEAN_METRICS, aliases=aliases, with_intervals=True, names=names
    )

    def order(one: Matrix) -> tuple[bool, float]:
        means = [mean.value for mean in one.domains["iou"] if mean.cells]
        # Several training sets say more than one.
        return len(one.table.columns) < 2, -max(means, default=0.0)

    return sorted(found, key=order)


def heat_matrix(matrix: Matrix, name: str) -> HeatMatrix:
    """Return a matrix as it is drawn. `name` is the name of its table on the page."""
    table = matrix.table
    rows = []
    for place, row in enumerate(table.rows):
        cells = []
        for number, column in enumerate(table.columns):
            domain = domain_name(matrix.domain[place, number])
            cells.append(_heat_cell(table.cell(row, column), row, column, domain))
        rows.append((row, cells))
    return HeatMatrix(
        matrix.title,
        table.marked_columns,
        rows,
        [
            DomainMean(
                f"{DOMAIN_NAMES[domain]} ({domain}), {count_text(one.cells, 'cell')}",
                f"{one.value:.1f}{one.mark}",
                interval_text(*one.interval, 1).strip(),
            )
            for domain, one in named_means(matrix)
            if one.cells
        ],
        table_of_estimates(
            replace(table, corner="tested on"), name, f"{matrix.title}: IoU in percent"
        ),
        table.is_marked,
        matrix.unstated,
    )


def named_means(matrix: Matrix) -> list[tuple[str, Estimate]]:
    """Return the means of IoU in domain and out of domain, by name."""
    return list(zip(DOMAINS, matrix.domains["iou"], strict=True))


def estimate_text(one: Estimate) -> str:
    """Return an estimate with its mark, interval and number of cells: "77.6 [74.7, 80.2]"."""
    return f"{one.value:.1f}{one.mark}{interval_text(*one.interval, 1)}"


def count_text(number: int, noun: str) -> str:
    """Return a number of things: "1 cell", "3 cells"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _heat_cell(one: Estimate, row: str, column: str, domain: str) -> HeatCell:
    where = f"tested on {row}, trained on {column} ({domain})"
    if not domain:
        where = f"{column}, tested on {row}"
    if np.isnan(one.value):
        return HeatCell("-", "transparent", "inherit", domain, f"{where}: not evaluated")
    red, green, blue, _ = colormaps[HEAT](one.value / 100)
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))  # WCAG 2, relative luminance
    background = "#" + "".join(f"{round(channel * 255):02x}" for channel in (red, green, blue))
    ink = DARK_INK if luminance > MIDDLE_LUMINANCE else LIGHT_INK
    return HeatCell(
        f"{one.value:.1f}", background, ink, domain, f"{where}: IoU {estimate_text(one)}"
    )


def configurations_table(found: Sequence[Matrix]) -> PageTable:
    """Return the means in domain and out of domain of each configuration."""
    columns = [Column("configuration")]
    for name in MEAN_METRICS:
        columns += [
            Column(f"{METRICS[name].title}, %, {domain}", is_number=True, has_interval=True)
            for domain in DOMAINS
        ]
    rows = []
    for matrix in found:
        row: list[PageCell] = [text_cell(matrix.title)]
        for name in MEAN_METRICS:
            factor = METRICS[name].percent
            row += [estimate_cell(one, factor=factor) for one in matrix.domains[name]]
        rows.append(row)
    caption = "Means over cells, in domain (ID) and out of domain (OOD), with 95% intervals"
    return PageTable("configurations", caption, columns, rows)


def layer_curves(evaluations: Sequence[Evaluation], aliases: Mapping[str, str]) -> list[Curve]:
    """Return curves over layers, for runs that differ in their layer; none of a single layer.

    Training sets are kept apart, so that all layers of a curve learned the same.
    """
    evaluations = [one for one in evaluations if one.is_of_run]
    if len({str(one.fields.get("layer")) for one in evaluations}) < 2:
        return []
    curves: list[Curve] = []
    tables = two_way_tables(
        evaluations,
        "layer",
        ["decoder", DOMAIN],
        over=("dataset", "generator"),
        aliases=aliases,
    )
    alone = sum(len(table.rows) > 1 for table in tables) == 1
    for table in tables:
        if len(table.rows) < 2:
            continue
        shown = _in_order(replace(table, corner="layer"))
        about = table.title.replace("train_on", "trained on").replace("_", " ")
        title = "IoU by layer" + (f", {about}" if about and not alone else "")
        points = {
            column: [
                (one.value, *one.interval)
                for one in (shown.cell(row, column) for row in shown.rows)
            ]
            for column in shown.columns
        }
        chart = percent_chart(title, "layer", shown.marked_rows, points, narrowest=LAYERS_WIDTH)
        name = f"layers-{len(curves) + 1}"
        caption = f"{title}, percent" + (f": {about}" if about and alone else "")
        curves.append(Curve(title, [chart], table_of_estimates(shown, name, caption)))
    return curves


def _in_order(table: Table) -> Table:
    """Return a table with layers by depth, and in domain before out of domain."""

    def depth(name: str) -> tuple[str, int]:
        digits = len(name) - len(name.rstrip("0123456789"))
        return name[: len(name) - digits], int(name[-digits:]) if digits else -1

    decoders = list(dict.fromkeys(name.rpartition(", ")[0] for name in table.columns))
    columns = [f"{decoder}, {domain}" for decoder in decoders for domain in DOMAINS]
    return replace(
        table,
        rows=tuple(sorted(table.rows, key=depth)),
        columns=tuple(name for name in columns if name in table.columns),
    )


def robustness_curves(evaluations: Sequence[Evaluation]) -> list[Curve]:
    """Return the curves of evaluations whose runs keep a table of robustness."""
    curves: list[Curve] = []
    for one in evaluations:
        for store in one.stores:
            file = kept_in(one.run, one.config) / store.folder / ROBUSTNESS_FILE
            if not file.is_file():
                continue
            title = f"{one.run.name} on {store.dataset}"
            panels = read_panels(file)
            charts = [
                percent_chart(panel.title, panel.title, panel.strengths, panel.lines)
                for panel in panels
            ]
            rows = [
                [
                    text_cell(panel.title),
                    text_cell(strength),
                    text_cell(name),
                    number_cell(points[place][0], 1, *points[place][1:]),
                ]
                for panel in panels
                for place, strength in enumerate(panel.strengths)
                for name, points in panel.lines.items()
            ]
            columns = [Column("change"), Column("strength"), Column("generator")]
            columns.append(Column("IoU, %", is_number=True, has_interval=True))
            name = f"robustness-{len(curves) + 1}"
            table = PageTable(name, f"{title}: IoU in percent by change", columns, rows)
            curves.append(Curve(title, charts, table))
    return curves
