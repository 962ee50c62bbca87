"""Report of the demo: one Markdown page with its tables, images, times and commands."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.files import write_text
from declip_pipeline.reports.layer_curve_figure import check_series
from declip_pipeline.reports.matrix import MISSING, Column, format_matrix_markdown, matrix_summary


def write_demo_report(
    path: Path,
    *,
    title: str,
    done: Sequence[str],
    matrix: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[Column],
    mean_intervals: Sequence[tuple[float, float]],
    layer_names: Sequence[str],
    layer_series: Mapping[str, Sequence[float]],
    images: Mapping[str, Path],
    timings: Mapping[str, float],
    commands: Sequence[str],
) -> None:
    """Write the demo's report, whole or not at all.

    done: what was done, one sentence an entry. matrix: (R, C) IoU in percent, NaN where missing;
    row_names: tested on; column_names: trained on; mean_intervals: of the ID and of the OOD mean,
    (low, high) in percent. layer_series: decoder to IoU in percent for each of `layer_names`.
    images: caption to an existing file, linked relative to `path`.
    timings: step to seconds. commands: as typed in a shell.
    Raises: InputError when names and values do not fit, or an image is not there.
    """
    check_series(layer_names, layer_series)
    sections = [
        f"# {title}",
        "## What was done\n\n" + "\n".join(f"- {sentence}" for sentence in done),
        "## IoU across generators, percent\n\n"
        + format_matrix_markdown(matrix, row_names, column_names)
        + f"\n{matrix_summary(matrix, row_names, column_names, intervals=mean_intervals)}. "
        "ID (bold): tested on a generator it was trained on; OOD: on another.",
        "## IoU over layers, percent\n\n" + _layer_table(layer_names, layer_series),
        "## Images\n\n" + "\n\n".join(_image(c, file, path) for c, file in images.items()),
        "## Times\n\n" + _timing_table(timings),
        "## Commands\n\n```sh\n" + "\n".join(commands) + "\n```",
    ]
    write_text(path, "\n\n".join(sections) + "\n")


def _layer_table(layer_names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    lines = ["| layer | " + " | ".join(series) + " |", "|---" + "|---:" * len(series) + "|"]
    best = {
        name: max((v for v in values if not np.isnan(v)), default=None)
        for name, values in series.items()
    }
    for index, layer in enumerate(layer_names):
        cells = [_cell(values[index], best[name]) for name, values in series.items()]
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nBold: the best layer of each decoder."


def _cell(value: float, best: float | None) -> str:
    if np.isnan(value):
        return MISSING
    return f"**{value:.1f}**" if value == best else f"{value:.1f}"


def _image(caption: str, file: Path, report: Path) -> str:
    if not file.is_file():
        raise InputError(f"the report's image {file} is not there; draw it before the report")
    link = Path(os.path.relpath(file.resolve(), report.resolve().parent)).as_posix()
    return f"### {caption}\n\n![{caption}]({quote(link)})"


def _timing_table(timings: Mapping[str, float]) -> str:
    lines = ["| step | seconds |", "|---|---:|"]
    lines += [f"| {step} | {seconds:.1f} |" for step, seconds in timings.items()]
    lines.append(f"| **total** | **{sum(timings.values()):.1f}** |")
    return "\n".join(lines)
