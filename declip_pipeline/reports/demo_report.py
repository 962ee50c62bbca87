"""Report of the demo: one Markdown page with its tables, figures, times and commands."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.metrics import PROTOCOL
from declip_pipeline.evaluation.table import Matrix, Table
from declip_pipeline.files import write_text
from declip_pipeline.reports.matrix import (
    MISSING,
    format_matrix_markdown,
    interval_text,
    matrix_summary,
)
from declip_pipeline.training.learning import MARK_MEANING


@dataclass(frozen=True)
class BackboneSection:
    """Results of the demo with one backbone.

    Attributes:
        name: Name of the backbone.
        pairing: The best decoder and its layer, as in "linear on layer10".
        layers: Tables of IoU in percent by layer, each with its figure.
        matrix: Train x test matrix of the best pairing, IoU in percent.
        matrix_figure: Figure of the matrix.
        sheet: Contact sheet of the best pairing's predictions.
    """

    name: str
    pairing: str
    layers: Sequence[tuple[Table, Path]]
    matrix: Matrix
    matrix_figure: Path
    sheet: Path


def write_demo_report(
    path: Path,
    *,
    title: str,
    done: Sequence[str],
    backbones: Sequence[BackboneSection],
    timings: Mapping[str, float],
    commands: Sequence[str],
) -> None:
    """Write the demo's report, whole or not at all.

    Args:
        path: The Markdown file; figures are linked relative to it.
        title: Title of the page.
        done: What was done, one sentence an entry.
        backbones: The findings of each backbone.
        timings: Seconds of each step.
        commands: Commands as typed in a shell.

    Raises:
        InputError: A figure is not there.
    """
    sections = [
        f"# {title}",
        "## What was done\n\n" + "\n".join(f"- {sentence}" for sentence in done),
        "## Best pairings, IoU in percent\n\n" + _pairings(backbones),
        *(part for one in backbones for part in _sections(one, path)),
        "## Times\n\n" + _timing_table(timings),
        "## Commands\n\n```sh\n" + "\n".join(commands) + "\n```",
    ]
    write_text(path, "\n\n".join(sections) + "\n")


def _pairings(backbones: Sequence[BackboneSection]) -> str:
    lines = ["| backbone | decoder and layer | ID | OOD |", "|---|---|---:|---:|"]
    for one in backbones:
        means = next(iter(one.matrix.domains.values()))
        cells = " | ".join(_cell(mean, is_best=False) for mean in means)
        lines.append(f"| {one.name} | {one.pairing} | {cells} |")
    return (
        "\n".join(lines) + "\n\nID: tested on a generator that the decoder was trained on; OOD: "
        "on another. In brackets: 95% bootstrap intervals over scenes, and over seeds where there "
        f"are several. Figures are {PROTOCOL}."
    )


def _sections(one: BackboneSection, path: Path) -> list[str]:
    table, matrix = one.matrix.table, one.matrix
    summary = matrix_summary(
        table.values,
        table.rows,
        table.marked_columns,
        intervals=matrix.intervals,
        domain=matrix.in_domain,
    )
    cells = format_matrix_markdown(
        table.values, table.rows, table.marked_columns, domain=matrix.in_domain
    )
    curves = [
        (f"{layers.title}\n\n" if len(one.layers) > 1 else "")
        + f"{_image('IoU by layer', figure, path)}\n\n{_layer_table(layers)}"
        for layers, figure in one.layers
    ]
    return [
        f"## {one.name}: IoU by layer, percent\n\n" + "\n\n".join(curves),
        f"## {one.name}: IoU across generators, percent\n\n{cells}\n{summary}. {one.pairing}; ID "
        "(bold): tested on a generator it was trained on; OOD: on another."
        + (f" {MARK_MEANING}." if table.is_marked else "")
        + "\n\n"
        + _image("IoU by generator, rows tested on, columns trained on", one.matrix_figure, path),
        f"## {one.name}: images\n\nEach generator's upper and lower quartile by IoU.\n\n"
        + _image("Images, masks and predictions", one.sheet, path),
    ]


def _layer_table(table: Table) -> str:
    lines = [
        f"| {table.corner} | " + " | ".join(table.columns) + " |",
        "|---" + "|---:" * len(table.columns) + "|",
    ]
    best = {
        column: max((table.cell(row, column).value for row in table.rows), key=np.nan_to_num)
        for column in table.columns
    }
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        shown = (
            _cell(cell, is_best=cell.value == best[column])
            for cell, column in zip(cells, table.columns, strict=True)
        )
        lines.append(f"| {row} | {' | '.join(shown)} |")
    legend = ["Bold: the best of a column."]
    if table.is_marked:
        legend.append(f"{MARK_MEANING}.")
    return "\n".join([*lines, "", " ".join(legend)])


def _cell(one: Estimate, *, is_best: bool) -> str:
    if np.isnan(one.value):
        return MISSING
    text = f"**{one.value:.1f}**" if is_best else f"{one.value:.1f}"
    return text + one.mark + interval_text(*one.interval, 1)


def _image(caption: str, file: Path, report: Path) -> str:
    if not file.is_file():
        raise InputError(f"the report's image {file} is not there; draw it before the report")
    link = Path(os.path.relpath(file.resolve(), report.resolve().parent)).as_posix()
    return f"![{caption}]({quote(link)})"


def _timing_table(timings: Mapping[str, float]) -> str:
    lines = ["| step | seconds |", "|---|---:|"]
    lines += [f"| {step} | {seconds:.1f} |" for step, seconds in timings.items()]
    lines.append(f"| **total** | **{sum(timings.values()):.1f}** |")
    return "\n".join(lines)
