"""`declip-pipe runs ls`: the runs below a folder, and what they differ in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.training.learning import MARK
from declip_pipeline.training.validation_score import SCORES
from stages.options import JsonOption
from stages.screen import json_result, remark, result
from stages.table import format_table

if TYPE_CHECKING:
    from declip_pipeline.training.run_listing import ListedRun

# Hashes are shown by their first digits.
SHOWN_DIGITS = 8


def ls(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that holds runs, of `train -o`.")
    ] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs below FOLDER: state, date, scores, and the options in which they differ.

    The validation score is the best one (IoU, of detection AP, in percent); behind it stands the
    mean IoU of each evaluation (percent). Runs of a named grid are listed with their grid's folder.
    """
    from declip_pipeline.training.run_listing import differing, list_runs

    runs = list_runs(folder)
    names = differing(runs)
    if as_json:
        differ = [{"differs": {name: run.configured.get(name) for name in names}} for run in runs]
        both = [run.to_json() | own for run, own in zip(runs, differ, strict=True)]
        json_result(both)
        return
    if not runs:
        remark(f"no runs under {folder}")
        return
    for run in runs:
        if run.problem is not None:
            remark(run.problem if run.state == "unreadable" else f"{run.name}: {run.problem}")
    tests = list(dict.fromkeys((one.dataset, one.split) for run in runs for one in run.evaluations))
    shown = list(dict.fromkeys(run.score for run in runs if run.score is not None))
    header = [
        *("run", "state", "date"),
        *(name.replace("_", " ") for name in names),
        *(f"valid {SCORES[score]}" for score in shown),
        *(f"IoU on {dataset}, {split}" for dataset, split in tests),
    ]
    rows = [
        [
            *(run.name, run.state, (run.ended or run.begun)[:16].replace("T", " ")),
            *(_text(run.configured.get(name)) for name in names),
            *(_marked(run, run.best_score if run.score == score else None) for score in shown),
            *(_marked(run, _iou(run, *test)) for test in tests),
        ]
        for run in runs
    ]
    result(format_table(header, rows))


def _iou(run: "ListedRun", dataset: str, split: str) -> float | None:
    """Return the mean IoU of a run's first evaluation on a dataset's split."""
    found = [one.iou for one in run.evaluations if (one.dataset, one.split) == (dataset, split)]
    return found[0] if found else None


def _marked(run: "ListedRun", value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}{MARK if run.problem else ''}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return "+".join(dict.fromkeys(map(_text, value)))
    text = str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:SHOWN_DIGITS] if is_hash else text
