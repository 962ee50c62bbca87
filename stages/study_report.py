"""A study's tables: printed, and written as Markdown, CSV and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.figure_table import FigureTable
from declip_pipeline.files import write_text
from declip_pipeline.reports.beside_published import (
    Published,
    beside_csv,
    beside_markdown,
    beside_text,
)
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.matrix_figure import draw_matrix
from stages.screen import result
from stages.study_settings import StudySettings

METRIC_NAMES = {
    "iou": "IoU",
    "f1_best": "F1 at the best threshold of each picture",
    "f1_fixed": "F1 at 0.5",
    "ap": "AP of pixels",
    "detection_ap": "AP of whole pictures",
    "detection_auc": "AUC of whole pictures",
}
DECIMALS = 1


def report_study(
    settings: StudySettings,
    tables: Sequence[tuple[FigureTable, Published]],
    out: Path,
    *,
    changes: Sequence[str],
    commands: Sequence[str],
) -> Path:
    """Print the tables and write table.md, table.csv and table.png into `out`.

    `tables` are the study's, and below a matrix its means, in percent, each with what was
    published; `changes` what differs from the study's file, `commands` what was done.
    Returns the path of table.md. Raises `InputError` when no picture could be judged.
    """
    table = tables[0][0]
    if not np.isfinite(table.values).any():
        raise InputError(
            f"no picture of {', '.join(settings.test.stores)} has a fake pixel; there is no "
            "figure to compare"
        )
    is_matrix = settings.table.rows == "generator"
    unit = f"{METRIC_NAMES[settings.table.metric]} (percent)"
    title = f"{settings.title}: {unit}"
    about = ["ours, with its bootstrap interval of 95%"]
    if settings.published:
        about[0] += f" (published, difference); published: {settings.published.source}"
    if changes:
        about.append(f"changed, so not the published setting: {', '.join(changes)}")
    texts = [
        # A matrix with intervals is wider than a terminal.
        beside_text(one, theirs, DECIMALS, with_intervals=not (is_matrix and one is table))
        for one, theirs in tables
    ]
    elsewhere = [f"intervals of cells are in {out / 'table.md'}"] if is_matrix else []
    result("\n".join([title, *about, *elsewhere, "", *texts]))

    figure = out / "table.png"
    heading = f"{settings.title}{', changed' if changes else ''}: {unit}"
    if is_matrix:
        columns = [tuple(column.split("+")) for column in table.columns]
        draw_matrix(table.values, table.rows, columns, figure, heading)
    else:
        draw_domains(table, figure, heading, unit, connected=settings.table.rows == "layer")
    write_text(out / "table.csv", beside_csv(tables))
    page = out / "table.md"
    parts = [
        f"# {title}\n",
        *(f"{line}\n" for line in about),
        *(beside_markdown(one, theirs, DECIMALS) for one, theirs in tables),
        f"![]({figure.name})\n",
        "```sh\n" + "\n".join(commands) + "\n```\n",
    ]
    write_text(page, "\n".join(parts))
    return page
