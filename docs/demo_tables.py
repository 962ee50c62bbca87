"""Tables of what `make demo` found."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

from measurements import RESULTS, Row

DEMO = RESULTS / "demo"
ABOUT_DOMAINS = (
    "ID: tested on a generator that the decoder was trained on; OOD: on another. In brackets: 95% "
    "bootstrap intervals over scenes, and over seeds where there are several."
)
ABOUT_MARK = "! of a run that learned nothing: `declip-pipe runs ls` says why."
FROM_DEMO = "From `make demo`"


def demo_rows(name: str) -> list[Row]:
    """Return the rows of a table that the demo wrote."""
    return list(csv.DictReader(io.StringIO((DEMO / name).read_text())))


def estimate(row: Row, names: tuple[str, str, str] = ("value", "low", "high")) -> str:
    """Return a mean with its mark and its interval."""
    value, low, high = (row[name] for name in names)
    if not value:
        return "-"
    interval = f" [{float(low):.1f}, {float(high):.1f}]" if low else ""
    return f"{float(value):.1f}{row.get('mark', '')}{interval}"


def from_demo(file: str, document: Path) -> str:
    """Return the line that says where a table of the demo comes from."""
    return f"{FROM_DEMO}: [{Path(file).name}]({os.path.relpath(DEMO / file, document.parent)})."


def demo_pairings(document: Path) -> str:
    """Return the best decoder and layer of each backbone of the demo."""
    lines = ["| backbone | decoder and layer | ID | OOD |", "|---|---|---:|---:|"]
    for row in demo_rows("pairings.csv"):
        means = (estimate(row, (d, f"{d}_low", f"{d}_high")) for d in ("ID", "OOD"))
        lines.append(f"| {row['backbone']} | {row['pairing']} | {' | '.join(means)} |")
    return "\n".join([*lines, "", ABOUT_DOMAINS, "", from_demo("pairings.csv", document)])


def demo_layers(name: str) -> Callable[[Path], str]:
    """Return the maker of a backbone's table of layers."""

    def table(document: Path) -> str:
        file = f"figures/{name}/layers.csv"
        rows = demo_rows(file)
        columns = list(dict.fromkeys(row["column"] for row in rows))
        lines = [f"| layer | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
        best = {
            c: max(float(row["value"]) for row in rows if row["column"] == c and row["value"])
            for c in columns
        }
        for layer in dict.fromkeys(row["row"] for row in rows):
            cells = []
            for row in (row for row in rows if row["row"] == layer):
                text = estimate(row)
                is_best = row["value"] and float(row["value"]) == best[row["column"]]
                number, space, interval = text.partition(" ")
                cells.append(f"**{number}**{space}{interval}" if is_best else text)
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        about = "Bold: the best of a column."
        about += f" {ABOUT_MARK}" if any(row["mark"] for row in rows) else ""
        return "\n".join([*lines, "", about, "", from_demo(file, document)])

    return table


def demo_matrix(name: str) -> Callable[[Path], str]:
    """Return the maker of a backbone's train x test matrix."""

    def table(document: Path) -> str:
        file = f"figures/{name}/matrix.csv"
        rows = demo_rows(file)
        columns = list(dict.fromkeys(row["column"] for row in rows))
        lines = [
            f"| tested on \\ trained on | {' | '.join(columns)} |",
            "|---" + "|---:" * len(columns) + "|",
        ]
        for tested in dict.fromkeys(row["row"] for row in rows):
            cells = []
            for row in (row for row in rows if row["row"] == tested):
                text = f"{float(row['value']):.1f}{row['mark']}"
                cells.append(f"**{text}**" if row["domain"] == "ID" else text)
            lines.append(f"| {tested} | {' | '.join(cells)} |")
        (pairing,) = (row for row in demo_rows("pairings.csv") if row["backbone"] == name)
        means = ", ".join(
            f"{d} {estimate(pairing, (d, f'{d}_low', f'{d}_high'))} "
            f"({sum(row['domain'] == d for row in rows)} cells)"
            for d in ("ID", "OOD")
        )
        about = (
            f"{means}. {pairing['pairing']}; ID (bold): tested on a generator it was trained on; "
            "OOD: on another."
        )
        return "\n".join([*lines, "", about, "", from_demo(file, document)])

    return table


def demo_times(document: Path) -> str:
    """Return the seconds of each step of the demo."""
    rows = demo_rows("times.csv")
    lines = ["| step | seconds |", "|---|---:|"]
    lines += [f"| {row['step']} | {float(row['seconds']):.1f} |" for row in rows]
    lines.append(f"| **total** | **{sum(float(row['seconds']) for row in rows):.1f}** |")
    return "\n".join([*lines, "", from_demo("times.csv", document)])
