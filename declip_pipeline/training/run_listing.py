"""The runs below a folder: their state, scores, dates, and what they differ in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.validation_score import ScoreName, score_name

# Of config.yaml: what follows from other values, or names files by their hashes.
_NOT_CONFIGURED = frozenset(("features", "inputs", "run_sha256", "images", "pooling"))
# How deep runs lie below a folder of runs: those of a named grid are one folder deeper.
_PATTERNS = ("config.yaml", "*/config.yaml", "*/*/config.yaml")


@dataclass(frozen=True)
class EvaluationScore:
    """The means of one evaluation of a run: IoU in percent, AP of pixels in [0, 1]."""

    dataset: str
    split: str
    iou: float | None
    ap: float | None


@dataclass(frozen=True)
class ListedRun:
    """One run of a listing.

    Args:
        name: Its folder below the one that was listed.
        state: "finished", "unfinished", or "unreadable" with the `problem`.
        begun: When its configuration was written, UTC, ISO 8601.
        ended: When its summary was written; None of an unfinished run.
        score: The name of its validation score, "iou" or "ap"; None before the first epoch.
        best_score: The best validation score in percent.
        configured: Its configured values by name.
        problem: Why it is unreadable, or what is wrong with how it learned.
    """

    name: str
    path: str
    state: str
    begun: str
    ended: str | None = None
    score: ScoreName | None = None
    best_score: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    configured: dict[str, Any] = field(default_factory=dict)
    evaluations: tuple[EvaluationScore, ...] = ()
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        return asdict(self)


def list_runs(folder: Path) -> list[ListedRun]:
    """List the runs of a folder, and those of its named grids, by name.

    Raises `InputError` when there is no such folder.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "is not there"
        raise InputError(f"{folder} {found}; expected a folder that holds runs")
    paths = {file.parent for pattern in _PATTERNS for file in folder.glob(pattern)}
    return [_listed(folder, Run(path)) for path in sorted(paths)]


def differing(runs: Sequence[ListedRun]) -> list[str]:
    """Return the names of the configured values that are not the same in all readable runs."""
    readable = [run.configured for run in runs if run.state != "unreadable"]
    names = dict.fromkeys(name for values in readable for name in values)
    return [
        name for name in names if any(one.get(name) != readable[0].get(name) for one in readable)
    ]


def _listed(folder: Path, run: Run) -> ListedRun:
    name = run.path.relative_to(folder).as_posix()
    name = run.path.resolve().name if name == "." else name
    begun = _written(run.path / "config.yaml")
    about: dict[str, Any] = {"name": name, "path": str(run.path), "begun": begun}
    try:
        configured = _configured(run.config())
        if not run.is_finished:
            epochs = run.epochs()
            reached: dict[str, Any] = {"epochs": len(epochs)}
            if epochs:
                score = score_name(epochs[-1])
                best = max(epochs, key=lambda epoch: epoch[f"valid_{score}"])
                reached |= {
                    "score": score,
                    "best_score": best[f"valid_{score}"],
                    "best_epoch": best["epoch"],
                }
            return ListedRun(**about, state="unfinished", configured=configured, **reached)
        summary = run.summary()
        score = score_name(summary, "best_valid_")
        return ListedRun(
            **about,
            state="finished",
            ended=_written(run.path / "summary.json"),
            score=score,
            best_score=summary[f"best_valid_{score}"],
            best_epoch=summary["best_epoch"],
            epochs=summary["epochs"],
            configured=configured,
            evaluations=_evaluations(run),
            problem=run.problem,
        )
    except (DeclipError, OSError) as error:
        return ListedRun(**about, state="unreadable", problem=" ".join(str(error).split()))


def _configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of config.yaml that a user chose, those of the features spelled out."""
    recorded = {name: value for name, value in config.items() if name not in _NOT_CONFIGURED}
    found = Recipe.unrecorded() | recorded
    features = config.get("features") or {}
    parts = features.get("parts", [features])
    found["task"] = f"detection-{config['pooling']}" if config.get("pooling") else "localization"
    # Which generators they are, `train_on` says.
    found["datasets"] = sorted(config.get("datasets") or ())
    found["backbone"] = [part.get("backbone") for part in parts]
    found["fusion"] = features.get("fusion")
    found["dtype"] = [one.get("dtype") for one in config["inputs"]]
    return found


def _evaluations(run: Run) -> tuple[EvaluationScore, ...]:
    found = []
    for file in sorted((run.path / "evaluations").glob("*/summary.json")):
        if not file.is_file():  # a pipe would be waited for
            continue
        try:
            summary = json.loads(file.read_bytes())
            means = summary["overall"]
            found.append(
                EvaluationScore(summary["dataset"], summary["split"], means["iou"], means["ap"])
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # one that was not finished, or of another version: evaluate writes it again
    return tuple(found)


def _written(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
