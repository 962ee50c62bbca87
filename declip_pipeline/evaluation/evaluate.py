"""Evaluate a run, or another source of maps, on the images of stores."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from declip_pipeline.arguments import require_whole
from declip_pipeline.compute import choose_device, is_out_of_memory
from declip_pipeline.datasets.sample import FAKE, REAL
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.evaluation.ensemble import as_map_source
from declip_pipeline.evaluation.evaluation import (
    SHARED_COLUMNS,
    EvaluatedStore,
    Evaluation,
)
from declip_pipeline.evaluation.files import Kind, evaluation_folder, kept_in, read_values
from declip_pipeline.evaluation.groups import MAPS
from declip_pipeline.evaluation.map_source import MapSource, OpenedSource
from declip_pipeline.evaluation.scores import FALSE_ALARM_COLUMNS, Progress, Task
from declip_pipeline.evaluation.selection import CALIBRATION, ImagesLike, SelectedStore, Selection
from declip_pipeline.metrics.localization import TOP_SHARE, require_share
from declip_pipeline.store.reader import Store, StoreLike
from declip_pipeline.training.run import RunLike


def evaluate(
    run: RunLike | MapSource,
    stores: ImagesLike | Sequence[ImagesLike],
    *,
    split: str = "test",
    generators: str | Sequence[str] | None = None,
    beside: Sequence[StoreLike] = (),
    task: Task = "localization",
    top_share: float = TOP_SHARE,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    reuse: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluate a finished run, or another source of maps, on images; nothing is written.

    Example:
        >>> evaluation = evaluate(run, store, split="test")
        >>> evaluation.mean("iou")  # percent, over the images with a fake pixel

    Args:
        run: The run, or its folder; an `Ensemble` of several; or a `MapFolder` of maps that another
            tool saved.
        stores: Stores to evaluate on, or their locations; for a `MapFolder` also datasets of
            `open_dataset`. A store given twice counts once.
        split: Split to evaluate.
        generators: Generators to evaluate; each store gives those it has. None takes all.
        beside: Stores of the same images for a decoder that takes features of several stores.
        task: "localization" evaluates maps on fakes, at each mask's native size, to which maps of
            overlapping tiles are joined, and the false alarms on the split's real images, where
            the store has some. "detection"
            evaluates scores of whole images on fakes and real images, with thresholds chosen on
            the split `valid`; runs of either kind of training can be evaluated so.
        top_share: For localization: share of a map's pixels, in (0, 1], whose highest values the
            image score `score_top` is the mean of.
        batch_size: Images a step.
        device: "auto", "cpu", "cuda" or a torch device.
        reuse: Take values that `Evaluation.save` wrote into its default folder from the same
            weights and the same stores; not of a `MapFolder`.
        progress: Called as `progress(done, total)` with numbers of images.

    Returns:
        The evaluation, a row an image.

    Raises:
        InputError: For a run that is not finished, stores without an image to evaluate, or maps of
            which none can be used.
        UnknownNameError: For a split or generator that does not occur.
        IdentityMismatchError: For features that are not those of the run, naming the field.
        DeclipError: A batch does not fit into memory.
    """
    require_whole("batch_size", batch_size, 1)
    require_share(top_share)
    selection = Selection(stores, split=split, generators=generators, beside=beside, task=task)
    source = as_map_source(run)
    opened = selection.check(source)
    chosen = choose_device(device) if isinstance(device, str) else device
    scores = () if task == "localization" else opened.scores
    config = source.config()
    total = sum(len(p.rows) + len(p.calibration) + len(p.real) for p in selection.parts)
    found: list[EvaluatedStore] = []
    tables: list[tuple[pa.Table, pa.Table, pa.Table]] = []
    done = 0
    for part in selection.parts:
        store = part.store
        about = _about(opened, part, selection, scores, top_share)
        compute = (
            partial(opened.localize, top_share=top_share)
            if task == "localization"
            else opened.detect
        )
        # Thresholds come first, as in the files.
        calibration_images = len(whole_images(store.samples.take(part.calibration))[0])
        kinds: list[tuple[Kind, np.ndarray]] = [
            (task, np.concatenate([part.calibration, part.rows])),
            ("false_alarms", part.real),
        ]
        images = []
        calibrating = 0
        for kind, rows in kinds:
            samples, _ = whole_images(store.samples.take(rows))
            names = FALSE_ALARM_COLUMNS
            values = None if len(rows) else dict.fromkeys(names, np.zeros(0))
            # Files of maps may have changed.
            if reuse and values is None and MAPS not in config:
                folder = kept_in(source.path, config) / about.folder
                values = read_values(folder, kind, about.made_from, samples.ids, scores)
            found_of = np.arange(len(samples))
            if values is None:
                with _too_little_memory(chosen, batch_size):
                    values, found_of = compute(
                        store,
                        rows,
                        device=chosen,
                        batch_size=batch_size,
                        progress=_from(done, total, progress),
                    )
            if kind == task:
                calibrating = int((found_of < calibration_images).sum())
            if kind == "false_alarms":
                values = {name: values[name] for name in names}
            images.append(_image_table(source.name, about, samples.take(found_of).table, values))
            done += len(rows)
        found.append(about)
        of_images, of_real = images
        tables.append(
            (
                of_images.slice(calibrating),
                of_images.slice(0, calibrating),
                of_real,
            )
        )
    table, calibration, real = (pa.concat_tables(some) for some in zip(*tables, strict=True))
    findings = opened.finish()
    if task == "detection":
        for some, name in ((table, split), (calibration, CALIBRATION)):
            _require_both_classes(source, some, name)
    return Evaluation(
        source.path,
        config,
        task,
        split,
        tuple(found),
        table,
        calibration,
        real,
        source.problem,
        source.score_threshold,
        findings,
    )


@contextmanager
def _too_little_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Say which option needs less memory where there is too little."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = f"take a `batch_size` of {batch_size // 2}" if batch_size > 1 else "free some"
        raise DeclipError(
            f"a batch of {batch_size} images does not fit into the memory of {device}; {remedy}"
        ) from error


def _require_both_classes(source: MapSource, table: pa.Table, split: str) -> None:
    """Raise `InputError` where maps of the fakes or of the real images of a split are missing."""
    labels = set(table.column("label").to_pylist())
    for label, kind in ((FAKE, "fake"), (REAL, "real")):
        if label not in labels:
            raise InputError(
                f"{source.name} has no map of a {kind} image in split {split!r} that can be used; "
                f"detection is evaluated on both, with thresholds from {CALIBRATION}, expected at "
                "least one of each"
            )


def _from(before: int, total: int, progress: Progress) -> Progress:
    """Return a progress function of one store's images, after those of the stores before."""
    return lambda done, _: progress(before + done, total)


def _about(
    opened: OpenedSource,
    part: SelectedStore,
    selection: Selection,
    scores: Sequence[str],
    top_share: float,
) -> EvaluatedStore:
    store = part.store
    chosen = store.generators if part.generators is None else part.generators
    made_from: dict[str, Any] = {
        "store": store.sha256,
        **opened.made_from(store),
        "split": selection.split,
        "generators": sorted(set(chosen)),
    }
    if selection.task == "detection":
        made_from |= {"thresholds_from": CALIBRATION, "scores": list(scores)}
    else:
        made_from |= {"top_share": top_share, "best_on_valid": asdict(opened.best)}
    return EvaluatedStore(
        location=store.location,
        dataset=store.dataset,
        view=store.view,
        dtype=opened.dtype(store),
        sha256=store.sha256,
        generators=tuple(store.generators),
        made_from=made_from,
        folder=evaluation_folder(store, selection.split, part.generators, selection.task),
        inputs=opened.input_locations(store),
        images=None if isinstance(store, Store) else store,
    )


def _image_table(
    source: str, about: EvaluatedStore, samples: pa.Table, values: dict[str, np.ndarray]
) -> pa.Table:
    """Return the table of an evaluation: what is known of the images, then their values."""
    same = {"run": source, "store": about.location}
    same |= {"dataset": about.dataset, "view": about.view}
    columns: dict[str, Any] = {
        name: pa.DictionaryArray.from_arrays(np.zeros(len(samples), np.int32), [text])
        for name, text in same.items()
    }
    for name in (*SHARED_COLUMNS[len(same) :], "image_sha256", "mask_sha256"):
        column = samples.column(name)
        # Dictionaries of several stores differ.
        columns[name] = column.cast(pa.string()) if name in ("split", "generator") else column
    columns |= {name: pa.array(value) for name, value in values.items()}
    return pa.table(columns)
