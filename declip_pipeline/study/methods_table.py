"""Tables of methods: what each finds and what it costs, as text, Markdown, CSV and a figure."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from declip_pipeline.evaluation.cells import DOMAINS
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.evaluation.metrics import MASKS, protocol_lines
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.methods_figure import draw_methods
from declip_pipeline.reports.page.methods import (
    FROM_VALID_HEAD,
    HEAD,
    WORST,
    meaning_of,
    method_cells,
)
from declip_pipeline.sweeps.grid import CellResult, write_table


def write_methods(
    methods: Sequence[Method],
    out: Path,
    *,
    title: str,
    from_valid: Mapping[str, Sequence[Method]] = MappingProxyType({}),
    baselines: Sequence[str] = (),
    missing: Sequence[str] = (),
    changes: Sequence[str] = (),
    left_out: Sequence[str] = (),
    commands: Sequence[str] = (),
    rows: Sequence[CellResult] = (),
    style: FigureStyle = SCREEN,
) -> tuple[str, Path]:
    """Write `table.md`, `table.csv` and `table.png` of methods.

    Args:
        methods: The methods.
        out: Folder of the files.
        title: Title of the study.
        from_valid: The methods for other masks, see `StudyResult.methods_from_valid`.
        baselines: Names of the methods that others are compared with.
        missing: Lines on what the tables lack.
        changes: How the study differs from its file.
        left_out: Datasets that the study names and does not have, a text each.
        commands: What was done, as typed in a shell.
        rows: The runs, which `results.csv` lists as that of a grid does.
        style: Format and size of the figure.

    Returns:
        The text for a terminal, and the path of `table.md`.
    """
    about = meaning_of(methods, baselines)
    about += [f"IoU: {line}." for line in protocol_lines(["iou"])]
    if changes:
        about.append(f"Changed: {', '.join(changes)}.")
    if left_out:
        about.append(f"Left out: {'; '.join(left_out)}.")
    tables = [_table(HEAD, methods)]
    for masks, own in from_valid.items():
        if own:
            tables += [
                f"## IoU {MASKS[masks].label}\n",
                f"{MASKS[masks].meaning}\n",
                _table(FROM_VALID_HEAD, own),
            ]
    lacking = ["What is missing:\n"] if missing else []
    lacking += [f"- {line}" for line in missing]
    remove_abandoned(out)
    write_text(out / "table.csv", methods_csv(methods, from_valid))
    figure = []
    if methods:
        drawn = draw_methods(methods, out / "table.png", title, style)
        figure = [f"![]({drawn.name})\n"]
    if rows:
        write_table(out, rows)
    done = ["```sh\n" + "\n".join(commands) + "\n```\n"] if commands else []
    page = out / "table.md"
    parts = [f"# {title}\n", *(f"{line}\n" for line in about), *tables[:1], *figure, *tables[1:]]
    write_text(page, "\n".join([*parts, *lacking, *done]))
    text = "\n\n".join([_text(one, from_valid) for one in methods])
    return "\n".join([title, *about, "", text, "", *lacking]), page


def methods_csv(
    methods: Sequence[Method],
    from_valid: Mapping[str, Sequence[Method]] = MappingProxyType({}),
) -> str:
    """Return a CSV of method, figure, value and the ends of its interval.

    Figures of other masks end on ", without small regions" or ", at valid's threshold".
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["method", "figure", "value", "low", "high"])
    for one in methods:
        for name, value, *ends in [*figures_of(one), *costs_of(one)]:
            writer.writerow([one.name, name, value, *ends])
    for masks, own in from_valid.items():
        for one in own:
            for name, value, *ends in figures_of(one):
                writer.writerow([one.name, f"{name}, {MASKS[masks].label}", value, *ends])
    return content.getvalue()


Figure = tuple[str, float, float | str, float | str]
"""Name, value and both ends of its interval, which are empty where it has none."""


def figures_of(one: Method) -> list[Figure]:
    """Return what a method finds."""
    found: list[Figure] = []
    for domain in DOMAINS:
        found.append((domain, one.domains[domain].value, *one.domains[domain].interval))
    found.append((f"worst cell: {one.worst[1]}", one.worst[0].value, *one.worst[0].interval))
    for name, alarms in one.false_alarms.items():
        found.append((name, alarms.value, *alarms.interval))
    for domain, difference in one.differences.items():
        found.append((f"{domain} - baseline", difference.value, *difference.interval))
    return found


def costs_of(one: Method) -> list[Figure]:
    """Return what a method costs, and the numbers of its runs and seeds."""
    counts = {**asdict(one.cost), "runs": len(one.runs), "seeds": one.seeds}
    return [(name, value, "", "") for name, value in counts.items()]


def _table(head: Sequence[str], methods: Sequence[Method]) -> str:
    """Return a table in Markdown, its first column text and the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in methods:
        row = [one.name, *_cells(one, head).values()]
        lines.append([cell.replace("|", "\\|") for cell in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(one: Method, head: Sequence[str]) -> dict[str, str]:
    """Return the figures of a method as text, by the names of their columns."""
    found = {}
    cells = method_cells(one, from_valid=head == FROM_VALID_HEAD)
    for name, cell in zip(head[1:], cells, strict=True):
        interval = f" [{cell.low}, {cell.high}]" if cell.low else ""
        place = f" {one.worst[1]}" if name == WORST else ""
        found[name] = f"{cell.text}{interval}{place}"
    return found


def _text(one: Method, from_valid: Mapping[str, Sequence[Method]]) -> str:
    """Return a method in lines for a terminal, which no table would fit into."""
    lines = [one.name, *(f"  {key}: {cell}" for key, cell in _cells(one, HEAD).items())]
    for masks, methods in from_valid.items():
        for same in (each for each in methods if each.name == one.name):
            lines.append(f"  {MASKS[masks].label}:")
            own = _cells(same, FROM_VALID_HEAD)
            lines += [f"    {key}: {cell}" for key, cell in own.items()]
    return "\n".join(lines)
