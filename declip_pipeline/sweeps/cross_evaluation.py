"""Runs against test sets: each run's figures, and the train x test matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.figures import Figures, figures_with_intervals
from declip_pipeline.evaluation.localization import (
    ImageResult,
    by_generator,
    evaluate_localization,
)
from declip_pipeline.feeding.decoder_inputs import DecoderInputs, inputs_like
from declip_pipeline.files import sha256_of_file, sha256_of_json
from declip_pipeline.store.identity import parts_of
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.evaluation_files import (
    evaluation_folder,
    read_results,
    write_evaluation,
)
from declip_pipeline.training.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One run on one store: where its files are, and mean figures by generator
    of the test set, results by picture.

    `trained_on` is the generators that the run learned, sorted; `overall` the figures of all
    pictures; `dataset` the store's; `method` the run's decoder and features, as "conv-4 on layer3
    of efficientnet-lite0"; `kind` is the same for runs that differ in their `seed` only.
    """

    run: Path
    store: str
    folder: Path
    trained_on: tuple[str, ...]
    figures: dict[str, Figures]
    results: list[ImageResult]
    overall: Figures = field(default_factory=dict)
    dataset: str = ""
    method: str = ""
    kind: str = ""
    seed: int | None = None


def evaluate_run(
    run: RunFolder,
    store: Store,
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
    device: torch.device,
    batch_size: int = 64,
    reuse: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Judge a finished run on the fakes of a store's split, all or those of `generators`.

    `beside` are stores of the same pictures for a decoder of several backbones. With `reuse`, the
    results of an earlier evaluation of the same weights on the same stores are taken.
    Writes `per_image.csv` and `summary.json` into the run's folder, under
    `evaluations/DATASET-SPLIT-IDENTITY`; a part of the store's generators has a folder of its own,
    `DATASET-SPLIT-GENERATORS-IDENTITY`. Raises `IdentityMismatchError` naming the field when the
    store's features are not those of the run.
    """
    run.summary()
    config = run.config()
    decoder, features = run.best_decoder()
    inputs = _inputs_of(run, features, store, beside)
    rows = store.fake_rows(split, generators)
    folder = run.path / "evaluations" / evaluation_folder(store, split, generators)
    made_from = evaluation_origin(run, store, inputs, split, generators)
    results = read_results(folder, made_from) if reuse else None
    if results is None or [one.id for one in results] != store.samples.take(rows).ids:
        results = evaluate_localization(
            decoder.to(device),
            store,
            inputs.sources,
            rows,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    named = by_generator(results)
    figures = {name: figures_with_intervals([some]) for name, some in named.items()}
    overall = next(iter(figures.values())) if len(named) == 1 else figures_with_intervals([results])
    about = {
        "dataset": store.dataset,
        "view": store.identity.view,
        "trained_on": config["train_on"],
    }
    figured = {"overall": overall, "by_generator": figures}
    write_evaluation(folder, results, made_from, about | figured)
    return Evaluation(
        run=run.path,
        store=store.location,
        folder=folder,
        trained_on=tuple(config["train_on"]),
        figures=figures,
        results=results,
        overall=overall,
        dataset=store.dataset,
        method=run_method(config, features),
        kind=run_kind(config),
        seed=config.get("seed"),
    )


def evaluation_origin(
    run: RunFolder,
    store: Store,
    inputs: DecoderInputs,
    split: str,
    generators: Sequence[str] | None,
) -> dict[str, Any]:
    """All that a run's results on a store follow from, as plain JSON."""
    return {
        "store": store.identity.sha256,
        "inputs": [source.store_of(store).identity.sha256 for source in inputs.sources],
        "checkpoint_sha256": sha256_of_file(run.best_checkpoint),
        "split": split,
        "generators": sorted(set(store.generators if generators is None else generators)),
    }


def run_method(config: dict[str, Any], features: dict[str, Any]) -> str:
    """A run's decoder and features in words, and its task where that is detection."""
    layers = " + ".join(f"{part['layer']} of {part['backbone']}" for part in parts_of(features))
    pooling = config.get("pooling")
    task = "" if pooling is None else f", detection by {pooling}"
    return f"{config['decoder_type']} on {layers}{task}"


def run_kind(config: dict[str, Any]) -> str:
    """What runs have in common that differ in their seed only: the SHA-256 of all else."""
    apart = ("seed", "run_sha256")
    return sha256_of_json({key: value for key, value in config.items() if key not in apart})


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of one run on several stores as one, on all of their pictures."""
    if len(evaluations) == 1:
        return evaluations[0]
    results = [result for evaluation in evaluations for result in evaluation.results]
    figures = {name: figures_with_intervals([some]) for name, some in by_generator(results).items()}
    overall = figures_with_intervals([results])
    return replace(evaluations[0], results=results, figures=figures, overall=overall)


def plan_evaluations(
    runs: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> list[tuple[RunFolder, Store, list[str] | None]]:
    """Check every run against every store, before the first is judged.

    Returns what to call `evaluate_run` with, for each of the `judged_stores`.

    Raises what that does, `InputError` for a run that is not finished or damaged, and
    `IdentityMismatchError` naming the field in which features differ.
    """
    chosen = judged_stores(stores, split=split, generators=generators)
    for run in runs:
        run.summary()
        run.config()
        _, features = run.best_decoder()
        for store, _ in chosen:
            _inputs_of(run, features, store, beside)
    return [(run, store, own) for run in runs for store, own in chosen]


def judged_stores(
    stores: Sequence[Store], *, split: str, generators: Sequence[str] | None = None
) -> list[tuple[Store, list[str] | None]]:
    """The stores that runs can be judged on, each with those of the named generators that it has.

    One that has none of them is left out.

    Raises `UnknownNameError` for a split, or a generator of no store, and `InputError` for a store
    without a fake to judge on.
    """
    known = sorted({name for store in stores for name in store.generators})
    for name in generators or ():
        if name not in known:
            raise UnknownNameError("generator in the stores", name, known)
    chosen: list[tuple[Store, list[str] | None]] = []
    for store in stores:
        own = None if generators is None else sorted(set(generators) & set(store.generators))
        rows = store.fake_rows(split, own)
        if own == []:
            continue
        if not len(rows):
            raise InputError(
                f"no fake picture of {', '.join(store.generators if own is None else own)} in "
                f"split {split!r} of {store.location}; expected at least one"
            )
        chosen.append((store, own))
    return chosen


def by_method(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Evaluations grouped by method: a matrix is of one."""
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.method, []).append(evaluation)
    return groups


def has_mixed_cells(evaluations: Sequence[Evaluation]) -> bool:
    """Whether a cell of the matrix is of runs that differ in more than their seed."""
    kinds: dict[tuple[tuple[str, ...], str], set[str]] = {}
    for one in evaluations:
        kinds.setdefault((one.trained_on, one.store), set()).add(one.kind)
    return any(len(some) > 1 for some in kinds.values())


def iou_matrix(
    evaluations: Sequence[Evaluation],
) -> tuple[np.ndarray, list[str], list[tuple[str, ...]]]:
    """The train x test matrix of IoU in percent: (values, rows, columns).

    Rows are the generators tested on, columns the generators each run was trained on, both sorted.
    Several runs or stores that share a cell are averaged; a cell without any is NaN.
    """
    columns = sorted({evaluation.trained_on for evaluation in evaluations})
    rows = sorted({name for evaluation in evaluations for name in evaluation.figures})
    cells: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for evaluation in evaluations:
        for name, figures in evaluation.figures.items():
            iou = figures["iou"]
            if iou is not None:
                cells.setdefault((name, evaluation.trained_on), []).append(iou)
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), scores in cells.items():
        values[rows.index(row), columns.index(column)] = np.mean(scores)
    return values, rows, columns


def _inputs_of(
    run: RunFolder, features: dict[str, Any], store: Store, beside: Sequence[Store]
) -> DecoderInputs:
    return inputs_like(features, store, beside, decoder=f"the run {run.path}")
