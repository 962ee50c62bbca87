"""Report of a study: its tables as text, Markdown, CSV and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.metrics import (
    DETECTION_METRICS,
    DETECTION_PROTOCOL,
    LOCALIZATION_METRICS,
    protocol_lines,
)
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.study.published import (
    Published,
    beside_csv,
    beside_markdown,
    beside_published,
    beside_text,
)
from declip_pipeline.study.study import Study
from declip_pipeline.study.tables import StudyTable
from declip_pipeline.sweeps.grid import CellResult, write_table
from declip_pipeline.training.learning import MARK_MEANING

METRIC_NAMES = {
    **{name: metric.meaning for name, metric in LOCALIZATION_METRICS.items()},
    **{f"detection_{name}": DETECTION_METRICS[name].meaning for name in ("ap", "auc")},
}
DECIMALS = 1


@dataclass(frozen=True)
class StudyReport:
    """A study's report: the text for a terminal, and the path of `table.md`."""

    text: str
    page: Path


def write_report(
    study: Study,
    tables: Sequence[StudyTable],
    out: Path,
    *,
    title: str,
    published: Published | None = None,
    missing: Sequence[str] = (),
    changes: Sequence[str] = (),
    left_out: Sequence[str] = (),
    commands: Sequence[str] = (),
    rows: Sequence[CellResult] = (),
    style: FigureStyle = SCREEN,
) -> StudyReport:
    """Write `table.md`, `table.csv` and `table.png` of a study.

    Args:
        study: The study.
        tables: Its tables; of several, figures are `table.png`, `table-2.png` and so on.
        out: Folder of the files.
        title: Title of the study.
        published: Figures that stand beside ours where there is one table.
        missing: Lines on the runs that the tables lack.
        changes: How the study differs from a published one.
        left_out: Datasets that the study names and does not have, a text each.
        commands: What was done, as typed in a shell.
        rows: The runs, which `results.csv` lists as that of a grid does.
        style: Format and size of the figures.

    Raises:
        InputError: No image could be evaluated.
    """
    if tables and not any(np.isfinite(one.table.values).any() for one in tables):
        names = [getattr(one, "location", str(one)) for one in study.test.stores]
        raise InputError(
            f"no image of {', '.join(names)} has a fake pixel; there is no figure to compare"
        )
    form = study.table
    assert form is not None
    unit = f"{METRIC_NAMES[form.metric]} (percent)"
    protocol = [DETECTION_PROTOCOL] if form.task == "detection" else protocol_lines([form.metric])
    about = [*protocol, "ours, with its bootstrap interval of 95%"]
    if published and len(tables) == 1:
        about[-1] += f" (published, difference); published: {published.source}"
    elif published and tables:
        about.append(f"published figures are of one table, and stand beside none of {len(tables)}")
    if changes:
        about.append(f"changed, so not the published setting: {', '.join(changes)}")
    if left_out:
        about.append(f"left out, so not the whole protocol: {'; '.join(left_out)}")
    if any(one.table.is_marked for one in tables):
        about.append(MARK_MEANING)
    if missing:
        about.append(f"runs are missing: {'; '.join(missing)}")
    compared = beside_published(tables, published)
    texts = []
    for one, parts in zip(tables, compared, strict=True):
        if len(tables) > 1:
            texts.append(f"{one.table.title}\n")
        for number, (table, theirs) in enumerate(parts):
            # A matrix with intervals is wider than a terminal.
            with_intervals = number > 0 or not form.is_matrix
            texts.append(beside_text(table, theirs, DECIMALS, with_intervals=with_intervals))
    elsewhere = [f"intervals of cells are in {out / 'table.md'}"] if form.is_matrix else []
    text = "\n".join([f"{title}: {unit}", *about, *elsewhere, "", *texts])

    heading = f"{title}{', changed' if changes else ''}: {unit}"
    sections = []
    for number, (one, parts) in enumerate(zip(tables, compared, strict=True), start=1):
        figure = out / ("table.png" if number == 1 else f"table-{number}.png")
        named = f"{heading}, {one.table.title}" if len(tables) > 1 else heading
        figure = _draw(one, figure, named, unit, connected=form.rows == ("layer",), style=style)
        sections += [f"## {one.table.title}\n"] if len(tables) > 1 else []
        sections += [beside_markdown(table, theirs, DECIMALS) for table, theirs in parts]
        sections.append(f"![]({figure.name})\n")
    if rows:
        write_table(out, rows)
    remove_abandoned(out)
    every = [part for parts in compared for part in parts]
    write_text(out / "table.csv", beside_csv(every, metric=form.metric, protocol=protocol))
    done = ["```sh\n" + "\n".join(commands) + "\n```\n"] if commands else []
    head = [f"# {title}: {unit}\n", *(f"{line}\n" for line in about)]
    write_text(out / "table.md", "\n".join([*head, *sections, *done]))
    return StudyReport(text, out / "table.md")


def _draw(
    one: StudyTable, path: Path, title: str, unit: str, *, connected: bool, style: FigureStyle
) -> Path:
    table = one.table
    if one.in_domain is None:
        return draw_domains(table, path, title, unit, connected=connected, style=style)
    names = table.values, table.rows, table.marked_columns
    return draw_matrix(*names, path, title, one.in_domain, style=style)
