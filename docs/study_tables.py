"""Tables of the study of light decoders."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from measurements import RESULTS

STUDY = RESULTS / "study"
STUDY_COMMAND = "declip-pipe reproduce configs/light_decoders.yaml --out study"


def study(with_figure: bool) -> Callable[[Path], str]:
    """Return the maker of the table of the study of light decoders, without its commands."""

    def table(document: Path) -> str:
        page = (STUDY / "table.md").read_text().partition("```sh")[0].partition("\n")[2].strip()
        figure = os.path.relpath(STUDY / "table.png", document.parent)
        shown = f"![Methods of the study]({figure})" if with_figure else ""
        text = page.replace("![](table.png)", shown).replace("\n## ", "\n### ")
        link = os.path.relpath(STUDY / "table.csv", document.parent)
        text = re.sub(r"\n{3,}", "\n\n", text)
        return f"{text}\n\nFrom `{STUDY_COMMAND}`: [table.csv]({link})."

    return table


def methods_by_title(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the tables of a page by their title, "" for the first.

    A table has its rows by their first cell, each by its columns.
    """
    tables = {}
    for section in f"\n{text}".split("\n## "):
        title, _, content = section.partition("\n")
        lines = [line for line in content.splitlines() if line[:2] == "| "]
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        head, rows = (cells[0], cells[2:]) if cells else ([], [])
        tables[title] = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    return tables


# Columns of a short table: those of the study's first table, then of its others by their titles.
SHORT = {
    "": ("ID", "OOD"),
    "IoU without small regions": ("ID", "OOD", "false alarms, pixels"),
    "IoU at valid's threshold": ("ID", "OOD", "false alarms, pixels"),
}
MARKS = dict(zip(SHORT, ("", " *", " †"), strict=True))


def study_rows(*methods: str) -> Callable[[Path], str]:
    """Return the maker of a short table of some methods of that study."""

    def table(document: Path) -> str:
        by_title = methods_by_title((STUDY / "table.md").read_text())
        columns = [(title, column) for title, some in SHORT.items() for column in some]
        columns += [("", "parameters, M"), ("", "MMAC")]
        lines = [
            ["method", *(f"{column}{MARKS[title]}" for title, column in columns)],
            ["---", *["---:"] * len(columns)],
        ]
        for name in methods:
            cells = (by_title[title].get(name, {}).get(column, "-") for title, column in columns)
            lines.append([name, *cells])
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        link = os.path.relpath(STUDY / "table.csv", document.parent)
        return f"{text}\n\nFrom `{STUDY_COMMAND}`: [table.csv]({link})."

    return table
