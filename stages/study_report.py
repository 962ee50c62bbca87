"""A study's tables: printed, and written as Markdown, CSV and a figure."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.table import Table
from declip_pipeline.files import write_text
from declip_pipeline.reports.beside_published import (
    Published,
    beside_csv,
    beside_markdown,
    beside_text,
)
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.sweeps.study_table import OURS, StudyTable
from stages.screen import result
from stages.study_settings import StudySettings

METRIC_NAMES = {
    "iou": "IoU",
    "f1_best": "F1 at the best threshold of each image",
    "f1_fixed": "F1 at 0.5",
    "ap": "AP of pixels",
    "detection_ap": "AP of whole images",
    "detection_auc": "AUC of whole images",
}
DECIMALS = 1


def report_study(
    settings: StudySettings,
    tables: Sequence[StudyTable],
    out: Path,
    *,
    changes: Sequence[str],
    commands: Sequence[str],
) -> Path:
    """Print the tables and write table.md, table.csv and table.png into `out`.

    Args:
        settings: The study's settings.
        tables: Its tables; of several, figures are table.png, table-2.png and so on. What was
            published stands beside ours where there is one.
        out: Folder of the files.
        changes: What differs from the study's file.
        commands: What was done.

    Returns:
        The path of table.md.

    Raises:
        InputError: When no image could be evaluated.
    """
    if not any(np.isfinite(one.table.values).any() for one in tables):
        raise InputError(
            f"no image of {', '.join(settings.test.stores)} has a fake pixel; there is no "
            "figure to compare"
        )
    unit = f"{METRIC_NAMES[settings.table.metric]} (percent)"
    title = f"{settings.title}: {unit}"
    about = ["ours, with its bootstrap interval of 95%"]
    if settings.published and len(tables) == 1:
        about[0] += f" (published, difference); published: {settings.published.source}"
    if changes:
        about.append(f"changed, so not the published setting: {', '.join(changes)}")
    compared = [_beside_published(settings, one, alone=len(tables) == 1) for one in tables]
    is_matrix = settings.table.is_matrix
    texts = []
    for one, parts in zip(tables, compared, strict=True):
        if len(tables) > 1:
            texts.append(f"{one.table.title}\n")
        texts += [
            # A matrix with intervals is wider than a terminal.
            beside_text(
                table, theirs, DECIMALS, with_intervals=table is not parts[0][0] or not is_matrix
            )
            for table, theirs in parts
        ]
    elsewhere = [f"intervals of cells are in {out / 'table.md'}"] if is_matrix else []
    result("\n".join([title, *about, *elsewhere, "", *texts]))

    heading = f"{settings.title}{', changed' if changes else ''}: {unit}"
    sections = []
    for number, (one, parts) in enumerate(zip(tables, compared, strict=True), start=1):
        figure = out / ("table.png" if number == 1 else f"table-{number}.png")
        named = f"{heading}, {one.table.title}" if len(tables) > 1 else heading
        _draw(one, figure, named, unit, connected=settings.table.row_fields == ["layer"])
        sections += [f"## {one.table.title}\n"] if len(tables) > 1 else []
        sections += [beside_markdown(table, theirs, DECIMALS) for table, theirs in parts]
        sections.append(f"![]({figure.name})\n")
    write_text(out / "table.csv", beside_csv([part for parts in compared for part in parts]))
    page = out / "table.md"
    done = "```sh\n" + "\n".join(commands) + "\n```\n"
    write_text(page, "\n".join([f"# {title}\n", *(f"{line}\n" for line in about), *sections, done]))
    return page


def _beside_published(
    settings: StudySettings, one: StudyTable, *, alone: bool
) -> list[tuple[Table, Published]]:
    """Return a table, and below a matrix its means, each with what was published."""
    published = settings.published if alone else None
    figures = published.figures if published else {}
    if one.means is None:
        return [(one.table, figures)]
    rivals = published.others if published else {}
    known: Published = {OURS: published.means, **rivals} if published else {}
    means = replace(one.means, rows=(*one.means.rows, *rivals))
    return [(one.table, figures), (means, known)]


def _draw(one: StudyTable, path: Path, title: str, unit: str, *, connected: bool) -> None:
    table = one.table
    if one.in_domain is None:
        draw_domains(table, path, title, unit, connected=connected)
    else:
        draw_matrix(table.values, table.rows, table.columns, path, title, one.in_domain)
