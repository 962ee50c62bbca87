"""Runs against test sets: each run's figures, and the train x test matrix."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.atomic_files import write_json, write_text
from declip_pipeline.decoders.decoder_file import load_decoder
from declip_pipeline.evaluation.localization import (
    ImageResult,
    by_generator,
    evaluate_localization,
    mean_figures,
)
from declip_pipeline.store.identity import require_same_features
from declip_pipeline.store.reader import Store
from declip_pipeline.training.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One run on one store: where its files are, and mean figures by generator
    of the test set, results by picture.

    `trained_on` is the run's generators joined by "+".
    """

    run: Path
    store: str
    folder: Path
    trained_on: str
    figures: dict[str, dict[str, float | int | None]]
    results: list[ImageResult]


def evaluate_run(
    run: RunFolder,
    store: Store,
    *,
    split: str,
    generators: Sequence[str] | None = None,
    device: torch.device,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Judge a finished run on the fakes of a store's split.

    Writes `per_image.csv` and `summary.json` into the run's folder, under
    `evaluations/DATASET-SPLIT-IDENTITY`. Raises `IdentityMismatchError` naming the field when the
    store's features are not those of the run.
    """
    run.summary()
    config = run.config()
    decoder, features = load_decoder(run.best_checkpoint)
    layer = features["layer"]
    require_same_features(
        features,
        _features_found(store, layer),
        decoder=f"the run {run.path}",
        features=f"the store {store.location}",
    )
    decoder.to(device)
    results = evaluate_localization(
        decoder,
        store,
        layer,
        store.fake_rows(split, generators),
        device=device,
        batch_size=batch_size,
        progress=progress,
    )
    folder = run.path / "evaluations" / f"{store.dataset}-{split}-{store.identity.sha256[:16]}"
    figures = {name: mean_figures(some) for name, some in by_generator(results).items()}
    write_text(folder / "per_image.csv", _as_csv(results))
    write_json(
        folder / "summary.json",
        {
            "store": store.identity.sha256,
            "dataset": store.dataset,
            "split": split,
            "trained_on": config["train_on"],
            "overall": mean_figures(results),
            "by_generator": figures,
        },
    )
    learned = "+".join(config["train_on"])
    return Evaluation(run.path, store.location, folder, learned, figures, results)


def iou_matrix(
    evaluations: Sequence[Evaluation],
) -> tuple[np.ndarray, list[str], list[str]]:
    """The train x test matrix of IoU in percent: (values, row names, column names).

    Rows are the generators tested on, columns what each run was trained on, both sorted. Several
    runs or stores that share a cell are averaged; a cell without any is NaN.
    """
    columns = sorted({evaluation.trained_on for evaluation in evaluations})
    rows = sorted({name for evaluation in evaluations for name in evaluation.figures})
    cells: dict[tuple[str, str], list[float]] = {}
    for evaluation in evaluations:
        for name, figures in evaluation.figures.items():
            iou = figures["iou"]
            if iou is not None:
                cells.setdefault((name, evaluation.trained_on), []).append(iou)
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), scores in cells.items():
        values[rows.index(row), columns.index(column)] = np.mean(scores)
    return values, rows, columns


def _features_found(store: Store, layer: str) -> dict[str, Any]:
    """The features a store offers for a layer; one it does not have is named by those it has.

    So a store of another backbone is refused for that, not for the names of its layers.
    """
    if layer in store.layers:
        return store.feature_identity(layer)
    some_layer = next(iter(store.layers))
    return store.feature_identity(some_layer) | {"layer": ", ".join(store.layers)}


def _as_csv(results: Sequence[ImageResult]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageResult)])
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    return text.getvalue()
