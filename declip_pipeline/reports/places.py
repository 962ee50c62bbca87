"""Runs to report on: of folders of runs, of the tables of grids and studies, or by themselves."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from declip_pipeline.errors import InputError
from declip_pipeline.training.run import CONFIG_FILE, Run
from declip_pipeline.training.run_listing import list_runs

RESULTS_FILE = "results.csv"
"""Table of a grid or of a study, a row for each of its runs."""

_TABLES = (RESULTS_FILE, f"*/{RESULTS_FILE}", f"*/*/{RESULTS_FILE}")


@dataclass
class FoundRuns:
    """Finished runs, each once, and the reasons by name why others are left out."""

    runs: list[Run] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def runs_at(places: Sequence[str | Path]) -> FoundRuns:
    """Return the runs of places.

    Args:
        places: Each a run's folder; the folder of a grid or a study, whose `results.csv` lists its
            runs; or a folder that holds runs or the folders of such, two levels deep at most.

    Raises:
        InputError: A place is not there, or no finished run is in all of them.
    """
    found = FoundRuns()
    runs: list[Run] = []
    for place in map(Path, places):
        if not place.is_dir():
            what = "is a file" if place.exists() else "is not there"
            raise InputError(
                f"{place} {what}; expected a run, a grid, a study, or a folder that holds runs"
            )
        if (place / CONFIG_FILE).is_file():
            run = Run(place)
            run.summary()  # of a run that was asked for by itself, the error is the answer
            runs.append(run)
        elif (place / RESULTS_FILE).is_file():
            runs += _listed(place / RESULTS_FILE, found)
        else:
            runs += _below(place, found)
    # Copies of a run are one.
    distinct: dict[str, Run] = {}
    for run in runs:
        distinct.setdefault(str(run.config()["run_sha256"]), run)
    found.runs = list(distinct.values())
    if not found.runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.left_out.items())
        raise InputError(
            f"no finished run in {', '.join(map(str, places))}"
            f"{f' ({reasons})' if reasons else ''}; expected runs that `declip-pipe train` made"
        )
    return found


def _below(folder: Path, found: FoundRuns) -> Iterator[Run]:
    for one in list_runs(folder):
        if one.state == "finished":
            yield Run(Path(one.path))
        else:
            reached = f", {one.epochs} epochs so far" if one.epochs else ""
            found.left_out[one.name] = one.problem or f"{one.state}{reached}"
    for pattern in _TABLES:
        for table in sorted(folder.glob(pattern)):
            for row in _rows(table):
                if row.get("state") == "failed":
                    found.left_out[_name(row)] = row.get("reason") or "failed"


def _listed(table: Path, found: FoundRuns) -> Iterator[Run]:
    """Yield the finished runs of a table."""
    for row in _rows(table):
        path = _place(row.get("run") or "", table.parent)
        if row.get("state") == "finished" and path is not None:
            yield Run(path)
        else:
            lost = "its folder is not there" if row.get("state") == "finished" else row.get("state")
            found.left_out[_name(row)] = row.get("reason") or lost or "unknown"


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(table.read_bytes().decode(), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read ({error}); expected a table of runs") from error


def _place(run: str, folder: Path) -> Path | None:
    """Return the folder of a run, also where it lay relative to another working directory."""
    if not run:
        return None
    for place in (Path(run), folder / Path(run).name, folder.parent / Path(run).name):
        if (place / CONFIG_FILE).is_file():
            return place
    return None


def _name(row: dict[str, str]) -> str:
    parts = (row.get(name, "") for name in ("decoder_type", "layer", "train_on"))
    return f"{' '.join(filter(None, parts))} seed {row.get('seed', '')}"
