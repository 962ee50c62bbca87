"""Table of methods: what each finds and what it costs, as text, Markdown, CSV and a figure."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from declip_pipeline.evaluation.cells import DOMAINS, Estimate
from declip_pipeline.evaluation.methods import (
    FALSE_ALARMS,
    FROM_VALID_HEAD,
    HEAD,
    MEANING,
    Method,
    millions_text,
)
from declip_pipeline.evaluation.metrics import MASKS, protocol_lines
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.metrics.bootstrap import Difference
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.matrix import MISSING, interval_text
from declip_pipeline.reports.methods_figure import draw_methods
from declip_pipeline.sweeps.grid import CellResult, write_table
from declip_pipeline.training.learning import MARK_MEANING


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
    about = [MEANING, *(f"IoU: {line}." for line in protocol_lines(["iou"]))]
    if baselines:
        about.append(f"Baseline, the first on the same images: {'; '.join(baselines)}.")
    if changes:
        about.append(f"Changed: {', '.join(changes)}.")
    if left_out:
        about.append(f"Left out: {'; '.join(left_out)}.")
    if any(one.mark for one in methods):
        about.append(f"{MARK_MEANING}.")
    tables = [_table(HEAD, map(_cells, methods))]
    for masks, own in from_valid.items():
        if own:
            tables += [
                f"## IoU {MASKS[masks].label}\n",
                f"{MASKS[masks].meaning}\n",
                _table(FROM_VALID_HEAD, map(_from_valid_cells, own)),
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column text and the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(one: Method) -> list[str]:
    """Return the cells of a method's row; the order is that of `HEAD`."""
    return [
        *_found_cells(one),
        millions_text(one.cost.parameters, 2),
        millions_text(one.cost.macs, 0),
        f"{one.cost.epoch_seconds:.2g}",
        *_differences(one),
        one.runs_text,
    ]


def _from_valid_cells(one: Method) -> list[str]:
    """Return the cells of a method's row, in the order of `FROM_VALID_HEAD`."""
    return [*_found_cells(one), *_differences(one)]


def _found_cells(one: Method) -> list[str]:
    return [
        one.name,
        *(_estimate(one.domains[domain]) for domain in DOMAINS),
        f"{_estimate(one.worst[0])} {one.worst[1]}",
        *(_estimate(one.false_alarms.get(name), 2) for name in FALSE_ALARMS),
    ]


def _differences(one: Method) -> list[str]:
    return [_difference(one.differences.get(domain)) for domain in DOMAINS]


def _text(one: Method, from_valid: Mapping[str, Sequence[Method]]) -> str:
    """Return a method in lines for a terminal, which no table would fit into."""
    cells = dict(zip(HEAD, _cells(one), strict=True))
    lines = [cells.pop("method"), *(f"  {key}: {value}" for key, value in cells.items())]
    for masks, methods in from_valid.items():
        for same in (each for each in methods if each.name == one.name):
            own = dict(zip(FROM_VALID_HEAD, _from_valid_cells(same), strict=True))
            del own["method"]
            lines.append(f"  {MASKS[masks].label}:")
            lines += [f"    {key}: {cell}" for key, cell in own.items()]
    return "\n".join(lines)


def _estimate(one: Estimate | None, decimals: int = 1) -> str:
    if one is None or one.value != one.value:
        return MISSING
    return f"{one.value:.{decimals}f}{one.mark}{interval_text(*one.interval, decimals)}"


def _difference(one: Difference | None) -> str:
    return MISSING if one is None else f"{one.value:+.1f}{interval_text(*one.interval, 1)}"
