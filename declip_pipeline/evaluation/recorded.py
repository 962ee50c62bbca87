"""Evaluations that runs keep in their folders, read back with the stores that they are of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.files import EVALUATIONS, FILES
from declip_pipeline.evaluation.scores import Progress, Task
from declip_pipeline.images.views import CLEAN
from declip_pipeline.store.catalog import list_stores
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.store.storage import URL_MARK
from declip_pipeline.training.run import Run

_TASKS: tuple[Task, ...] = ("localization", "detection")


@dataclass(frozen=True)
class RecordedEvaluation:
    """Record of one evaluation in a run's folder.

    Attributes:
        folder: Its folder.
        task: "localization" or "detection".
        split: The split that was evaluated.
        view: View of the store's images.
        generators: Generators that were evaluated, sorted.
        store: SHA-256 of the store's identity.
        inputs: Those of the stores that the features came from.
        places: Where these stores lay, as far as it is recorded.
    """

    folder: Path
    task: Task
    split: str
    view: str
    generators: tuple[str, ...]
    store: str
    inputs: tuple[str, ...]
    places: dict[str, str]


def recorded_evaluations(run: Run) -> list[RecordedEvaluation]:
    """Return the evaluations of a run's weights that its folder keeps.

    Those of other weights, or written by a version that recorded less, are left out. Of several
    of one store, that of most generators comes first. Raises as `Run.summary`.
    """
    found = []
    for task in _TASKS:
        for file in sorted((run.path / EVALUATIONS).glob(f"*/{FILES[task][1]}")):
            if not file.is_file():  # a pipe would be waited for
                continue
            try:
                summary = json.loads(file.read_bytes())
                if summary["checkpoint_sha256"] == run.best_sha256:
                    found.append(_recorded(file.parent, task, summary))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # not finished, or of another version: evaluate writes it again
    return sorted(found, key=lambda one: -len(one.generators))


class StoreFinder:
    """Finds stores by their identity: among those that were named, where they lay, in a cache."""

    def __init__(self, stores: Sequence[StoreLike] = (), cache: str | Path | None = None) -> None:
        """Take the stores that were named, and the folder that may hold others."""
        self.given = [as_store(one) for one in stores]
        self._opened = {one.identity.sha256: one for one in self.given}
        self._cache = cache

    def find(self, sha256: str, place: str | None = None) -> Store | None:
        """Return the store of an identity, None where there is none.

        Args:
            sha256: The identity.
            place: Where it lay.
        """
        if sha256 not in self._opened:
            for location in (place, self._in_cache.get(sha256)):
                found = None if location is None else _opened(location)
                if found is not None and found.identity.sha256 == sha256:
                    self._opened[sha256] = found
                    break
        return self._opened.get(sha256)

    @cached_property
    def _in_cache(self) -> dict[str, str]:
        if self._cache is None:
            return {}
        if URL_MARK not in str(self._cache) and not Path(self._cache).is_dir():
            return {}
        return {
            one.header.identity.sha256: one.location
            for one in list_stores(self._cache)
            if one.header is not None and one.is_complete
        }


def read_evaluations(
    runs: Sequence[Run],
    finder: StoreFinder,
    *,
    split: str = "test",
    evaluate_missing: bool = False,
    beside: Sequence[StoreLike] = (),
    device: str | torch.device = "auto",
    progress: Progress = lambda done, total: None,
) -> list[Evaluation]:
    """Return the evaluations of runs, as their folders keep them.

    Values that were damaged or changed are computed again. Of a run that was evaluated on other
    views, too, those of the clean images are taken.

    Args:
        runs: Finished runs.
        finder: Where their stores are found. Where stores were named, those are taken alone.
        split: Split that was evaluated.
        evaluate_missing: Evaluate runs that never were, on the named stores or on those that they
            were trained on, and keep that in their folders.
        beside: Stores of the same images for decoders that take features of several stores.
        device: Where to compute.
        progress: Called with numbers of runs.

    Raises:
        InputError: A run was never evaluated, with the command that does it; or a store is not
            found.
    """
    missing = [run for run in runs if not _of_split(run, finder, split)]
    if missing and not evaluate_missing:
        on = finder.given[0].location if finder.given else "STORE"
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(
            f"{missing[0].path}{more} of {len(runs)} runs: never evaluated on split {split!r}"
            f"{' of these stores' if finder.given else ''}; `declip-pipe evaluate "
            f"{missing[0].path} --on {on}` does it, or pass `evaluate_missing=True`"
        )
    found: list[Evaluation] = []
    for number, run in enumerate(runs):
        progress(number, len(runs))
        if run in missing:
            found += _evaluated(run, finder, split, beside, device)
            continue
        for one in _of_split(run, finder, split):
            store, *others = _stores_of(run, one, finder)
            every = set(one.generators) == set(store.generators)
            found.append(
                evaluate(
                    run,
                    store,
                    split=split,
                    generators=None if every else one.generators,
                    beside=[*others, *beside],
                    task=one.task,
                    device=device,
                    reuse=True,
                )
            )
    progress(len(runs), len(runs))
    return found


def _of_split(run: Run, finder: StoreFinder, split: str) -> list[RecordedEvaluation]:
    """Return the recorded evaluations of a split, on the named stores if there are any."""
    named = {one.identity.sha256 for one in finder.given}
    found = [
        one
        for one in recorded_evaluations(run)
        if one.split == split and (not named or one.store in named)
    ]
    return [one for one in found if one.view == CLEAN] or found


def _stores_of(run: Run, one: RecordedEvaluation, finder: StoreFinder) -> list[Store]:
    """Return the store of an evaluation, and others that the features came from."""
    found = []
    for sha256 in dict.fromkeys((one.store, *one.inputs)):
        place = one.places.get(sha256)
        store = finder.find(sha256, place)
        if store is None:
            lay = f"it lay at {place}" if place else f"its identity is {sha256[:16]}..."
            raise InputError(
                f"a store that {run.path} was evaluated on is not found: {lay}; name it with `on`, "
                "or the folder that holds it with `cache`"
            )
        found.append(store)
    return found


def _evaluated(
    run: Run,
    finder: StoreFinder,
    split: str,
    beside: Sequence[StoreLike],
    device: str | torch.device,
) -> list[Evaluation]:
    """Evaluate a run, and keep that in its folder."""
    config = run.config()
    task: Task = "localization" if config.get("pooling") is None else "detection"
    sources = config.get("stores") or [[]]
    stores: list[Store] = list(finder.given)
    others = [as_store(one) for one in beside]
    if not stores:
        for number, source in enumerate(sources):
            opened = [finder.find(sha256) for sha256 in source]
            if None in opened or not opened:
                raise InputError(
                    f"{run.path} was never evaluated, and a store that it was trained on is not "
                    "found; name stores to evaluate on with `on`, or the folder that holds them "
                    "with `cache`"
                )
            own = [one for one in opened if one is not None]
            if number == 0:
                stores = [one for one in own if split in one.splits]
            else:
                others += own
    evaluation = evaluate(run, stores, split=split, beside=others, task=task, device=device)
    evaluation.save()
    return [evaluation]


def _recorded(folder: Path, task: Task, summary: dict[str, Any]) -> RecordedEvaluation:
    inputs = tuple(str(one) for one in summary["inputs"])
    places = dict(zip(inputs, summary.get("input_locations", ()), strict=False))
    if "location" in summary:
        places[summary["store"]] = summary["location"]
    return RecordedEvaluation(
        folder,
        task,
        summary["split"],
        summary.get("view", CLEAN),
        tuple(summary["generators"]),
        summary["store"],
        inputs,
        places,
    )


def _opened(location: str) -> Store | None:
    """Return an open store; None where it cannot be opened."""
    try:
        return Store(location)
    except DeclipError:
        return None
