"""Evaluate a run on the images of stores."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from declip_pipeline.arguments import require_whole
from declip_pipeline.compute import choose_device, is_out_of_memory
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import DeclipError
from declip_pipeline.evaluation.evaluation import (
    SHARED_COLUMNS,
    EvaluatedStore,
    Evaluation,
)
from declip_pipeline.evaluation.files import Kind, evaluation_folder, read_values
from declip_pipeline.evaluation.joined_scores import detect_joined, localize_joined
from declip_pipeline.evaluation.scores import (
    FALSE_ALARM_COLUMNS,
    Progress,
    Task,
    detect,
    localize,
    score_names,
)
from declip_pipeline.evaluation.selection import CALIBRATION, SelectedStore, Selection
from declip_pipeline.feeding.inputs import DecoderInputs
from declip_pipeline.store.reader import Store, StoreLike
from declip_pipeline.training.run import Run, RunLike, as_run

EVALUATIONS = "evaluations"
"""Folder in a run's folder that keeps what was evaluated."""


def evaluate(
    run: RunLike,
    stores: StoreLike | Sequence[StoreLike],
    *,
    split: str = "test",
    generators: str | Sequence[str] | None = None,
    beside: Sequence[StoreLike] = (),
    task: Task = "localization",
    batch_size: int = 64,
    device: str | torch.device = "auto",
    reuse: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluate a finished run on the images of stores; nothing is written.

    Example:
        >>> evaluation = evaluate(run, store, split="test")
        >>> evaluation.mean("iou")  # percent, over the images with a fake pixel

    Args:
        run: The run, or its folder.
        stores: Stores to evaluate on, or their locations. A store given twice counts once.
        split: Split to evaluate.
        generators: Generators to evaluate; each store gives those it has. None takes all.
        beside: Stores of the same images for a decoder that takes features of several stores.
        task: "localization" evaluates maps on fakes, at each mask's native size, to which maps of
            overlapping tiles are joined, and the false alarms on the split's real images, where
            the store has some. "detection"
            evaluates scores of whole images on fakes and real images, with thresholds chosen on
            the split `valid`; runs of either kind of training can be evaluated so.
        batch_size: Images a step.
        device: "auto", "cpu", "cuda" or a torch device.
        reuse: Take values that `Evaluation.save` wrote into the run's folder from the same weights
            and the same stores.
        progress: Called as `progress(done, total)` with numbers of images.

    Returns:
        The evaluation, a row an image.

    Raises:
        InputError: For a run that is not finished, or stores without an image to evaluate.
        UnknownNameError: For a split or generator that does not occur.
        IdentityMismatchError: For features that are not those of the run, naming the field.
        DeclipError: A batch does not fit into memory.
    """
    require_whole("batch_size", batch_size, 1)
    selection = Selection(stores, split=split, generators=generators, beside=beside, task=task)
    run = as_run(run)
    decoder, features = selection.check(run)
    chosen = choose_device(device) if isinstance(device, str) else device
    scores = () if task == "localization" else score_names(decoder)
    total = sum(len(p.rows) + len(p.calibration) + len(p.real) for p in selection.parts)
    found: list[EvaluatedStore] = []
    tables: list[tuple[pa.Table, pa.Table, pa.Table]] = []
    done = 0
    for part in selection.parts:
        store = part.store
        inputs = selection.inputs(run, features, store)
        about = _about(run, part, inputs, selection, scores)
        # Thresholds come first, as in the files.
        compute: Callable[..., dict[str, np.ndarray]]
        if task == "localization":
            by_row = localize if store.tiling is None else localize_joined
            compute = partial(by_row, threshold=run.valid_threshold)
        else:
            compute = detect if store.tiling is None else detect_joined
        calibration_images = len(whole_images(store.samples.take(part.calibration))[0])
        kinds: list[tuple[Kind, np.ndarray]] = [
            (task, np.concatenate([part.calibration, part.rows])),
            ("false_alarms", part.real),
        ]
        images = []
        for kind, rows in kinds:
            samples, _ = whole_images(store.samples.take(rows))
            names = FALSE_ALARM_COLUMNS
            values = None if len(rows) else dict.fromkeys(names, np.zeros(0))
            if reuse and values is None:
                folder = run.path / EVALUATIONS / about.folder
                values = read_values(folder, kind, about.made_from, samples.ids, scores)
            if values is None:
                with _too_little_memory(chosen, batch_size):
                    values = compute(
                        decoder.to(chosen),
                        store,
                        inputs.sources,
                        rows,
                        device=chosen,
                        batch_size=batch_size,
                        progress=_from(done, total, progress),
                    )
            if kind == "false_alarms":
                values = {name: values[name] for name in names}
            images.append(_image_table(run, about, samples.table, values))
            done += len(rows)
        found.append(about)
        of_images, of_real = images
        tables.append(
            (
                of_images.slice(calibration_images),
                of_images.slice(0, calibration_images),
                of_real,
            )
        )
    table, calibration, real = (pa.concat_tables(some) for some in zip(*tables, strict=True))
    return Evaluation(
        run.path, run.config(), task, split, tuple(found), table, calibration, real, run.problem
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


def _from(before: int, total: int, progress: Progress) -> Progress:
    """Return a progress function of one store's images, after those of the stores before."""
    return lambda done, _: progress(before + done, total)


def _about(
    run: Run,
    part: SelectedStore,
    inputs: DecoderInputs,
    selection: Selection,
    scores: Sequence[str],
) -> EvaluatedStore:
    store: Store = part.store
    chosen = store.generators if part.generators is None else part.generators
    sources = [source.store_of(store) for source in inputs.sources]
    made_from: dict[str, Any] = {
        "store": store.identity.sha256,
        "inputs": [source.identity.sha256 for source in sources],
        "checkpoint_sha256": run.best_sha256,
        "split": selection.split,
        "generators": sorted(set(chosen)),
    }
    if selection.task == "detection":
        made_from |= {"thresholds_from": CALIBRATION, "scores": list(scores)}
    return EvaluatedStore(
        location=store.location,
        dataset=store.dataset,
        view=store.identity.view,
        dtype=store.identity.dtype,
        sha256=store.identity.sha256,
        generators=tuple(store.generators),
        made_from=made_from,
        folder=evaluation_folder(store, selection.split, part.generators, selection.task),
        inputs=tuple(source.location for source in sources),
    )


def _image_table(
    run: Run, about: EvaluatedStore, samples: pa.Table, values: dict[str, np.ndarray]
) -> pa.Table:
    """Return the table of an evaluation: what is known of the images, then their values."""
    same = {"run": run.path.name, "store": about.location}
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
