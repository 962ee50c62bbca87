"""Runs judged on telling fake pictures from real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.detection import PictureScores, score_names, score_rows
from declip_pipeline.feeding.decoder_inputs import inputs_like
from declip_pipeline.metrics.detection import accuracy_at, area_under_roc, detection_metrics
from declip_pipeline.metrics.detection_intervals import detection_intervals
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.cross_evaluation import (
    evaluation_origin,
    plan_evaluations,
    run_kind,
    run_method,
)
from declip_pipeline.sweeps.detection_files import read_scores, write_detection
from declip_pipeline.sweeps.evaluation_files import evaluation_folder
from declip_pipeline.training.run_folder import RunFolder

# Where thresholds are chosen, whatever is judged.
VALID = "valid"

DetectionFigures = dict[str, Any]
"""Plain JSON values of one score, as `DetectionEvaluation` has them."""


@dataclass(frozen=True)
class DetectionEvaluation:
    """One run on one store: where its files are, and its figures by name of score.

    `pooling` is what the run was trained with, None of a localization run. `overall` is of all
    pictures, `by_generator` of each generator's fakes against all real pictures. Figures: `fake`
    and `real` (pictures), `ap` and `auc` (0 to 1) with `ap_interval` and `auc_interval` (95%, over
    scenes), `accuracy_at_0_5` (percent),
    `accuracy_at_threshold` (percent) at the `threshold` that is best for the same generators on the
    split `valid` (for all of them where it has none of a generator; halfway to the next lower score
    there, `threshold_between`), and
    `accuracy_at_best_of_test`, at the threshold that is best on the very pictures that are judged,
    which is how the reference reports it. `results` are the pictures that are judged; `store`,
    `dataset`, `method`, `kind` and `seed` are those of an `Evaluation`.
    """

    run: Path
    folder: Path
    trained_on: tuple[str, ...]
    pooling: str | None
    overall: dict[str, DetectionFigures]
    by_generator: dict[str, dict[str, DetectionFigures]]
    results: list[PictureScores] = field(default_factory=list)
    store: str = ""
    dataset: str = ""
    method: str = ""
    kind: str = ""
    seed: int | None = None


def plan_detections(
    runs: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> list[tuple[RunFolder, Store, list[str] | None]]:
    """Check every run against every store, before the first is judged, as `plan_evaluations` does.

    Returns what to call `evaluate_detection` with. Raises what that does, and `InputError` when a
    store lacks fake or real pictures to judge on or to choose thresholds on, or when both are one.
    """
    if split == VALID:
        raise InputError(
            f"thresholds are chosen on {VALID}, and would be judged where they were chosen; "
            "expected another split, such as test"
        )
    plan = plan_evaluations(runs, stores, split=split, generators=generators, beside=beside)
    for store, own in {store.location: (store, own) for _, store, own in plan}.values():
        require_both_classes(store, own, split)
    return plan


def require_both_classes(store: Store, generators: Sequence[str] | None, split: str) -> None:
    """Refuse a store that lacks fake or real pictures to judge on, or to choose thresholds on.

    Raises `InputError`.
    """
    if VALID not in store.splits:
        raise InputError(
            f"{store.location} has the split{'s' if len(store.splits) > 1 else ''} "
            f"{', '.join(store.splits)}; thresholds of detection are chosen on {VALID}, "
            "extract with it"
        )
    for name in (split, VALID):
        labels = store.labels[store.fake_and_real_rows(name, generators)]
        fake, real = int((labels == 1).sum()), int((labels == 0).sum())
        if not fake or not real:
            raise InputError(
                f"split {name!r} of {store.location} has {fake} fake and {real} real pictures; "
                "detection is judged on both, expected at least one of each"
            )


def evaluate_detection(
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
) -> DetectionEvaluation:
    """Judge a finished run, of detection or of localization, on the fakes and the real pictures of
    a store's split, with thresholds from its split `valid`.

    Arguments as `plan_detections` lets them pass, and as `evaluate_run` takes them; with `reuse`
    too, scores of the same weights on the same stores are taken and figures made anew. Writes
    `detection.csv` (scores of the pictures of both splits) and `detection.json` into the run's
    folder, under `evaluations/detection-...`.
    """
    run.summary()
    config = run.config()
    decoder, features = run.best_decoder()
    inputs = inputs_like(features, store, beside, decoder=f"the run {run.path}")
    rows = [store.fake_and_real_rows(name, generators) for name in (VALID, split)]
    every = np.concatenate(rows)
    names = score_names(decoder)
    folder = run.path / "evaluations" / f"detection-{evaluation_folder(store, split, generators)}"
    made_from = {
        **evaluation_origin(run, store, inputs, split, generators),
        "thresholds_from": VALID,
        "scores": list(names),
    }
    results = read_scores(folder, made_from) if reuse else None
    if results is None or [one.id for one in results] != store.samples.take(every).ids:
        results = score_rows(
            decoder.to(device),
            store,
            inputs.sources,
            every,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    valid, judged = results[: len(rows[0])], results[len(rows[0]) :]
    evaluation = DetectionEvaluation(
        run=run.path,
        folder=folder,
        trained_on=tuple(config["train_on"]),
        pooling=None if decoder.pooling is None else decoder.pooling.name,
        overall=_figures(valid, judged, names),
        by_generator={
            name: _figures(_against_real(valid, name), _against_real(judged, name), names)
            for name in sorted({result.generator for result in judged if result.label})
        },
        results=judged,
        store=store.location,
        dataset=store.dataset,
        method=run_method(config, features),
        kind=run_kind(config),
        seed=config.get("seed"),
    )
    about = {
        "dataset": store.dataset,
        "trained_on": config["train_on"],
        "pooling": evaluation.pooling,
        "overall": evaluation.overall,
        "by_generator": evaluation.by_generator,
    }
    write_detection(folder, results, made_from, about)
    return evaluation


def _against_real(results: Sequence[PictureScores], generator: str) -> list[PictureScores]:
    """A generator's fakes and all real pictures; all fakes where it has none."""
    own = [result for result in results if not result.label or result.generator == generator]
    return own if any(result.label for result in own) else list(results)


def _figures(
    valid: Sequence[PictureScores], judged: Sequence[PictureScores], names: Sequence[str]
) -> dict[str, DetectionFigures]:
    found = {}
    scenes = np.array([result.scene for result in judged], dtype=np.str_)
    for name in names:
        threshold = detection_metrics(*_tensors(valid, name))["threshold_between"]
        scores, labels = _tensors(judged, name)
        measured = detection_metrics(scores, labels)
        intervals = detection_intervals(scores, labels, scenes)
        fake = int(labels.sum())
        found[name] = {
            "fake": fake,
            "real": len(judged) - fake,
            "ap": measured["average_precision"],
            "ap_interval": intervals["ap"],
            "auc": area_under_roc(scores, labels),
            "auc_interval": intervals["auc"],
            "accuracy_at_0_5": measured["accuracy_at_0_5"],
            "threshold": threshold,
            "accuracy_at_threshold": accuracy_at(scores, labels, threshold),
            "accuracy_at_best_of_test": measured["accuracy_at_best"],
        }
    return found


def _tensors(results: Sequence[PictureScores], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A score of pictures (N,) float64, and their labels (N,)."""
    scores = torch.tensor([result.scores[name] for result in results], dtype=torch.float64)
    return scores, torch.tensor([result.label for result in results])
