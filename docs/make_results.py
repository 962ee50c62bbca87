"""Write docs/results.md and the tables of measurements in the other documents.

python docs/make_results.py [--check]

All figures come from benchmarks/results. In a document they stand between `<!-- result: NAME -->`
and `<!-- end of result -->`, where NAME is a key of `TABLES`. With `--check` nothing is written,
and the exit code is 1 where a document is not up to date.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from math import floor, log10
from pathlib import Path
from statistics import median
from typing import Any

from demo_tables import demo_layers, demo_matrix, demo_pairings, demo_times
from measurements import MEASUREMENTS, RESULTS, Row
from study_tables import study, study_rows

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "cache" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"(<!-- result: (\w+) -->\n).*?(<!-- end of result -->)", re.DOTALL)


def rows_of(name: str) -> list[Row]:
    """Return the rows of benchmarks/results/NAME.json."""
    rows: list[Row] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


def shown(value: Any) -> str:
    """Return a value as a cell: floats with three significant digits, no exponent."""
    if isinstance(value, float) and value:
        digits = max(2 - floor(log10(abs(value))), 0)
        return f"{round(value, 2 - floor(log10(abs(value)))):,.{digits}f}"
    return "" if value is None else str(value).replace("|", "\\|")


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table; columns that are empty in all rows are left out."""
    columns = [name for name in rows[0] if any(row.get(name) not in ("", None) for row in rows)]
    numeric = {
        name
        for name in columns
        if all(re.fullmatch(r"[-+\d.,%x]*", shown(row.get(name))) for row in rows)
    }
    lines = [columns, ["---:" if name in numeric else "---" for name in columns]]
    lines += [[shown(row.get(name)) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(names: Iterable[str], document: Path) -> str:
    """Return the line under a table: the command, and links to the files that it wrote."""
    names = list(names)
    files = ", ".join(
        f"[{name}.json]({os.path.relpath(RESULTS / f'{name}.json', document.parent)})"
        for name in names
    )
    return f"From `{MEASUREMENTS[names[0]].command}`: {files}."


def some(name: str, column: str | None, *starts: str) -> Callable[[Path], str]:
    """Return the maker of a table of the rows whose `column` begins with one of `starts`.

    Of a column with one value, only the rows are kept; None takes all rows.
    """

    def table(document: Path) -> str:
        rows = rows_of(name)
        if column is not None:
            rows = [row for row in rows if str(row[column]).startswith(starts)]
            if len({row[column] for row in rows}) == 1:
                rows = [{key: cell for key, cell in row.items() if key != column} for row in rows]
        return f"{markdown_table(rows)}\n\n{source([name], document)}"

    return table


def whole(name: str) -> Callable[[Path], str]:
    """Return the maker of a table of all rows."""
    return some(name, None)


def codecs(document: Path) -> str:
    """Return the table of lossless codecs: ranges over layers."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of("codecs"):
        groups.setdefault((row["dtype"], row["codec"]), []).append(row)
    speed = "decode and check MB/s"
    rows = []
    for (dtype, codec), members in groups.items():
        sizes = sorted(float(row["size"]) for row in members)
        span = f"{sizes[0]:.2f} to {sizes[-1]:.2f}"
        middle = float(f"{median(float(row[speed]) for row in members):.3g}")
        rows.append({"dtype": dtype, "codec": codec, "size": span, f"median {speed}": middle})
    return f"{markdown_table(rows)}\n\n{source(['codecs'], document)}"


def cache_epochs(document: Path) -> str:
    """Return the table of epochs: decoders as columns."""
    table: dict[str, Row] = {}
    for row in rows_of("train_cache"):
        decoder = row["measure"].split(",")[0]
        found = table.setdefault(row["contestant"], {"an epoch": row["contestant"]})
        found[decoder] = f"{shown(row['seconds'])} s, {row['ratio'].removesuffix(' faster')}"
    return f"{markdown_table(list(table.values()))}\n\n{source(['train_cache'], document)}"


# Backbones of the demo.
VIT, CNN = "dinov2-vit-s14", "efficientnet-lite0"

TABLES: dict[str, Callable[[Path], str]] = {
    "demo_pairings": demo_pairings,
    "demo_matrix": demo_matrix(VIT),
    "demo_layers": demo_layers(VIT),
    "report_page": whole("report_page"),
    "report_charts": whole("report_charts"),
    "study": study(with_figure=True),
    "study_rows": study_rows(
        "ViT, layer 9, as published, conv-4",
        "ViT, several layers, mlp",
        "ViT, odd layers, lda",
        "ViT, discriminant and linear",
        "ViT, odd layers, discriminant and linear, dropout 0.5",
        "ViT at 448, odd layers, lda",
        "ViT, several layers, real images, pup",
        "CNN, fcn",
        "ViT + CNN, pup and fcn",
        "ViT at 448 + CNN, discriminant and fcn",
        "ViT + CNN, pup and fcn, real images",
        "ViT + CNN, pup and fcn, real images, seeds together",
    ),
    "choices": whole("choices"),
    "bounds_grid": whole("bounds_grid"),
    "bounds_data": whole("bounds_data"),
    "bounds_generators": whole("bounds_generators"),
    "store": whole("store"),
    "scale": whole("scale"),
    "store_writing": some("store", "measure", "write"),
    "store_reading": some("store", "measure", "random", "sequential"),
    "store_tensorstore": some("store", "measure", "TensorStore's settings"),
    "checks_writing": some("store_breakdown", "step", "finite", "checksum", "hash", "all checks"),
    "checks_copying": some("store_breakdown", "step", "write", "encode"),
    "checks_reading": some("store_breakdown", "step", "read"),
    "dtypes_features": whole("dtypes_features"),
    "dtypes_iou": whole("dtypes_iou"),
    "codecs": codecs,
    "train_cache": cache_epochs,
    "train_bare": whole("train_bare"),
    "train_ablation": whole("train_ablation"),
    "light_decoders": whole("light_decoders"),
    "light_steps": whole("light_steps"),
    "recipes": whole("recipes"),
    "activations": whole("activations"),
    "metrics": whole("metrics"),
    "predict_rates": whole("predict_rates"),
    "encoding": whole("encoding"),
    "predict_tiles": whole("predict_tiles"),
    "predict_memory": whole("predict_memory"),
    "resolution": whole("resolution"),
    "engines": whole("engines"),
    "extract_vit_b": whole("extract_ViT-B-32"),
    "extract_vit_l": whole("extract_ViT-L-14"),
}


def machine_line(name: str) -> str:
    """Return what a file of results says of its machine and settings."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    machine = content.get("machine", {})
    where = [
        f"{machine.get('accelerator') or machine.get('processor', 'unknown processor')}",
        f"threads: {machine.get('threads', '?')}",
        f"torch {machine.get('torch', '?')}",
    ]
    settings = ", ".join(
        f"{key} {json.dumps(value) if isinstance(value, dict | list) else value}"
        for key, value in content.get("settings", {}).items()
        if value not in (None, False)
    )
    return f"Machine: {', '.join(where)}. Settings: {settings}."


def results_page() -> str:
    """Return docs/results.md."""
    parts = [
        "# Results",
        "Written by `python docs/make_results.py` from the files in "
        "[benchmarks/results](../benchmarks/results); [benchmarks](../benchmarks/README.md) lists "
        "the commands that write those. Do not edit this page by hand: a test compares it with "
        "what the script prints.",
        "Machines are shared and noisy. What counts is the ratio of two things measured in one "
        "run. IoU is in percent, intervals are 95% bootstrap intervals over scenes.",
        "No figure on Dolos is among these: the paper's tables are rehearsed in the tests on small "
        "trees with small weights, and `declip-pipe reproduce` prints ours beside the published "
        "ones ([guide](guide.md#reproduce-the-papers-tables)).",
        "## The demo: best pairings",
        demo_pairings(PAGE),
        *(
            part
            for name in (VIT, CNN)
            for what, table in (
                ("IoU by layer", demo_layers(name)),
                ("IoU across generators", demo_matrix(name)),
            )
            for part in (f"## The demo: {what}, {name}", table(PAGE))
        ),
        "## The demo: times",
        demo_times(PAGE),
    ]
    parts += ["## Light decoders beside those of the paper", study(with_figure=True)(PAGE)]
    found = sorted(file.stem for file in RESULTS.glob("*.json"))
    for name in [
        *(n for n in MEASUREMENTS if n in found),
        *(n for n in found if n not in MEASUREMENTS),
    ]:
        about = MEASUREMENTS.get(name)
        parts.append(f"## {about.title if about else name}")
        if about:
            parts.append(about.about)
        parts.append(machine_line(name))
        if name == "codecs":
            parts.append(codecs(PAGE))
        elif about:
            parts.append(whole(name)(PAGE))
        else:
            parts.append(
                f"{markdown_table(rows_of(name))}\n\nFrom `benchmarks/results/{name}.json`."
            )
    return "\n\n".join(parts) + "\n"


def filled(document: Path) -> str:
    """Return the text of a document with every block of results up to date."""
    if document == PAGE:
        return results_page()

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{TABLES[match[2]](document)}\n{match[3]}"

    return BLOCK.sub(block, document.read_text())


def main() -> int:
    """Write all documents, or check them; return the exit code."""
    check = "--check" in sys.argv[1:]
    stale = []
    for document in [PAGE, *(one for one in DOCUMENTS if one != PAGE)]:
        text = filled(document)
        if not document.exists() or document.read_text() != text:
            stale.append(document.relative_to(ROOT).as_posix())
            if not check:
                document.write_text(text)
    for name in stale:
        print(f"{name} is not up to date" if check else f"{name} written")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
