"""Runs against test sets: each run's figures, and the train x test matrix."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.atomic_files import write_json, write_text
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.localization import (
    ImageResult,
    by_generator,
    evaluate_localization,
    mean_figures,
)
from declip_pipeline.feeding.decoder_inputs import DecoderInputs, inputs_like
from declip_pipeline.fingerprint import sha256_of_json
from declip_pipeline.folder_names import folder_name
from declip_pipeline.store.reader import Store
from declip_pipeline.training.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One run on one store: where its files are, and mean figures by generator
    of the test set, results by picture.

    `trained_on` is the generators that the run learned, sorted.
    """

    run: Path
    store: str
    folder: Path
    trained_on: tuple[str, ...]
    figures: dict[str, dict[str, float | int | None]]
    results: list[ImageResult]


def evaluate_run(
    run: RunFolder,
    store: Store,
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
    device: torch.device,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Judge a finished run on the fakes of a store's split, all or those of `generators`.

    `beside` are stores of the same pictures for a decoder of several backbones.
    Writes `per_image.csv` and `summary.json` into the run's folder, under
    `evaluations/DATASET-SPLIT-IDENTITY`; a part of the store's generators has a folder of its own,
    `DATASET-SPLIT-GENERATORS-IDENTITY`. Raises `IdentityMismatchError` naming the field when the
    store's features are not those of the run.
    """
    run.summary()
    config = run.config()
    decoder, features = run.best_decoder()
    inputs = _inputs_of(run, features, store, beside)
    decoder.to(device)
    results = evaluate_localization(
        decoder,
        store,
        inputs.sources,
        store.fake_rows(split, generators),
        device=device,
        batch_size=batch_size,
        progress=progress,
    )
    folder = run.path / "evaluations" / _folder(store, split, generators)
    figures = {name: mean_figures(some) for name, some in by_generator(results).items()}
    write_text(folder / "per_image.csv", _as_csv(results))
    write_json(
        folder / "summary.json",
        {
            "store": store.identity.sha256,
            "dataset": store.dataset,
            "split": split,
            "generators": sorted(set(store.generators if generators is None else generators)),
            "trained_on": config["train_on"],
            "overall": mean_figures(results),
            "by_generator": figures,
        },
    )
    learned = tuple(config["train_on"])
    return Evaluation(run.path, store.location, folder, learned, figures, results)


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of one run on several stores as one, on all of their pictures."""
    results = [result for evaluation in evaluations for result in evaluation.results]
    figures = {name: mean_figures(some) for name, some in by_generator(results).items()}
    return replace(evaluations[0], results=results, figures=figures)


def plan_evaluations(
    runs: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> list[tuple[RunFolder, Store, list[str] | None]]:
    """Check every run against every store, before the first is judged.

    Returns what to call `evaluate_run` with. Each store gives those of the named generators that it
    has; one that has none of them is left out.

    Raises `UnknownNameError` for a split, or a generator of no store, `InputError` for a run that
    is not finished or damaged and a store without a fake to judge on, `IdentityMismatchError`
    naming the field in which features differ.
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
    for run in runs:
        run.summary()
        run.config()
        _, features = run.best_decoder()
        for store, _ in chosen:
            _inputs_of(run, features, store, beside)
    return [(run, store, own) for run in runs for store, own in chosen]


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


def _folder(store: Store, split: str, generators: Sequence[str] | None) -> str:
    dataset, names = folder_name(store.dataset), sorted(set(generators or ()))
    if generators is None or names == store.generators:
        return f"{dataset}-{split}-{store.identity.sha256[:16]}"
    identity = sha256_of_json([store.identity.sha256, names])
    return f"{dataset}-{split}-{folder_name('+'.join(names))}-{identity[:16]}"


def _inputs_of(
    run: RunFolder, features: dict[str, Any], store: Store, beside: Sequence[Store]
) -> DecoderInputs:
    return inputs_like(features, store, beside, decoder=f"the run {run.path}")


def _as_csv(results: Sequence[ImageResult]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageResult)])
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    return text.getvalue()
