"""A store's pending shards, from pictures, from the backbone, and from earlier stores."""

import os
import random
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.datasets.manifest import Sample
from declip_pipeline.extraction.reuse import EarlierStores
from declip_pipeline.extraction.sample_reading import ReadSample
from declip_pipeline.feature_dtype import encode_features
from declip_pipeline.store.format import layer_key, scales_key
from declip_pipeline.store.writer import StoredShard, StoreWriter

# What comes from a picture directly, and where a decoded sample has it.
PICTURE_ARRAYS = MappingProxyType({"targets": "target", "thumbnails": "thumbnail", "masks": "mask"})

# One waits for the disk, one is encoded, while the next is computed; more would fill the memory.
SHARDS_BEING_WRITTEN = 2
# With those whose pictures are being read: the one asked for, and the one after it.
SHARDS_IN_MEMORY = SHARDS_BEING_WRITTEN + 2

_Reading = Future[ReadSample | str]


def fill_store(
    writer: StoreWriter,
    backbone: Backbone | None,
    reuse: EarlierStores,
    *,
    read: Callable[[Sample], ReadSample | str],
    batch_size: int,
    kept: Mapping[int, Mapping[str, StoredShard]] = MappingProxyType({}),
    decode_threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> None:
    """Write every shard that is pending, then declare the store complete.

    `read` gives a sample's picture and masks, or why it has none. `backbone` may be None where
    `reuse` has all there is to compute. `kept` maps shards to those of
    their arrays whose files are good already. `notice` is told, in a line, when the device's memory
    is too small for `batch_size`. Raises as `extract` does.
    """
    header = writer.header
    layers, dtype = list(header.layers), header.identity.dtype
    pending = writer.pending_shards()
    total = header.rows
    done = total - sum(len(writer.shard_rows(shard)) for shard in pending)
    progress(done, total)
    # Several extractors may fill one store. Each takes the shards in an order of its own and
    # leaves out what another has done meanwhile, so they seldom meet and need no locks to live on.
    random.shuffle(pending)
    # With the pictures at hand, one that failed before is tried again: limits may have changed.
    retry = backbone is not None
    work = [_plan(writer, shard, reuse, kept.get(shard, {}), retry=retry) for shard in pending]
    writer.require_space(
        pending,
        {plan.shard: _stored_arrays(writer, plan, reuse, plan.failures) for plan in work},
    )
    with (
        ThreadPoolExecutor(decode_threads or os.cpu_count()) as decoders,
        ThreadPoolExecutor(SHARDS_BEING_WRITTEN) as shard_writers,
        # Closed first, so that nothing more is queued once an error is on its way.
        closing(_read_ahead(decoders, read, writer, work)) as shards,
    ):
        writing: deque[Future[None]] = deque()
        for plan, readings in shards:
            read_samples: dict[int, ReadSample] = {}
            failures = dict(plan.failures)
            for row, reading in readings.items():
                outcome = reading.result()
                if isinstance(outcome, str):
                    failures[row] = outcome
                else:
                    read_samples[row] = outcome
            same = _same_picture(writer, read_samples, plan.computed)
            features, fitting = _features(
                backbone, read_samples, plan.computed, same, dtype, batch_size
            )
            if fitting < batch_size:
                notice(
                    f"the device's memory is too small for batches of {batch_size}; "
                    f"going on with {fitting}"
                )
                batch_size = fitting
            rows = [row for row in writer.shard_rows(plan.shard) if row not in failures]
            stored = _stored_arrays(writer, plan, reuse, failures)
            arrays: dict[str, Sequence[np.ndarray]] = {}
            for layer in layers:
                names = [name for name in _layer_arrays(writer, layer) if name not in stored]
                if names:
                    computed = features.get(layer, {})
                    others = [row for row in rows if row not in computed]
                    values = computed | reuse.read_layer(layer, others, dtype)
                    arrays |= {name: [values[row][name] for row in rows] for name in names}
            for name, field in PICTURE_ARRAYS.items():
                if name not in stored:
                    seen = {row: {name: getattr(s, field)} for row, s in read_samples.items()}
                    others = [row for row in rows if row not in seen]
                    values = seen | reuse.read_array(name, others)
                    arrays[name] = [values[row][name] for row in rows]
            if len(writing) == SHARDS_BEING_WRITTEN:
                writing.popleft().result()
            writing.append(
                shard_writers.submit(writer.write_shard, plan.shard, rows, arrays, failures, stored)
            )
            done += len(writer.shard_rows(plan.shard))
            progress(done, total)
        for last in writing:
            last.result()
    writer.finish()
    progress(total, total)


@dataclass(frozen=True)
class _ShardPlan:
    """What is to be done for one shard: the rows whose pictures must be seen, each with the layers
    that the backbone must compute for it, rows known to fail, and files that are good already."""

    shard: int
    computed: dict[int, tuple[str, ...]]
    failures: dict[int, str]
    kept: Mapping[str, StoredShard]


def _plan(
    writer: StoreWriter,
    shard: int,
    reuse: EarlierStores,
    kept: Mapping[str, StoredShard],
    *,
    retry: bool,
) -> _ShardPlan:
    wanted = [
        layer
        for layer in writer.header.layers
        if not set(_layer_arrays(writer, layer)) <= set(kept)
    ]
    # A picture is needed for what comes from it directly, too.
    pictures = not set(PICTURE_ARRAYS) <= set(kept)
    computed, failures = {}, {}
    for row in writer.shard_rows(shard):
        reason = None if retry else reuse.failure(row)
        if reason is not None:
            failures[row] = reason
            continue
        layers = tuple(layer for layer in wanted if not reuse.has(row, layer))
        if layers or (pictures and not reuse.has(row, None)):
            computed[row] = layers
    return _ShardPlan(shard, computed, failures, kept)


def _layer_arrays(writer: StoreWriter, layer: str) -> list[str]:
    """The names of the arrays that hold a layer."""
    return [name for name in (layer_key(layer), scales_key(layer)) if name in writer.arrays]


def _stored_arrays(
    writer: StoreWriter, plan: _ShardPlan, reuse: EarlierStores, failures: Mapping[int, str]
) -> dict[str, StoredShard]:
    """The arrays of a shard whose files need not be made: kept, or whole in an earlier store."""
    stored = dict(plan.kept)
    rows = writer.shard_rows(plan.shard)
    for name, array in writer.arrays.items():
        if name not in stored:
            found = reuse.stored_shard(array, rows, failures, writer.header.rows_per_shard)
            if found is not None:
                stored[name] = found
    return stored


def _read_ahead(
    threads: ThreadPoolExecutor,
    read: Callable[[Sample], ReadSample | str],
    writer: StoreWriter,
    work: Sequence[_ShardPlan],
) -> Generator[tuple[_ShardPlan, dict[int, _Reading]], None, None]:
    """Shards with their pictures being read, one shard ahead of the one asked for.

    A shard that another extractor has written meanwhile is left out.
    """
    waiting: deque[tuple[_ShardPlan, dict[int, _Reading]]] = deque()
    try:
        for plan in work:
            if writer.is_written(plan.shard):
                continue
            readings = {
                row: threads.submit(read, Sample.from_json(writer.samples[row]))
                for row in plan.computed
            }
            waiting.append((plan, readings))
            if len(waiting) > 1:
                yield from _unwritten(writer, waiting)
        while waiting:
            yield from _unwritten(writer, waiting)
    finally:
        for _, readings in waiting:
            for reading in readings.values():
                reading.cancel()


def _unwritten(
    writer: StoreWriter, waiting: deque[tuple[_ShardPlan, dict[int, _Reading]]]
) -> Generator[tuple[_ShardPlan, dict[int, _Reading]], None, None]:
    """The first shard that waits, unless it was written while it waited."""
    plan, readings = waiting[0]
    if not writer.is_written(plan.shard):
        yield plan, readings
    for reading in readings.values():
        reading.cancel()
    waiting.popleft()


def _features(
    backbone: Backbone | None,
    samples: Mapping[int, ReadSample],
    wanted: Mapping[int, tuple[str, ...]],
    same_picture: Mapping[int, int],
    dtype: str,
    batch_size: int,
) -> tuple[dict[str, dict[int, dict[str, np.ndarray]]], int]:
    """The wanted layers of each row's picture: layer to row to the arrays, by name, in `dtype`.

    Rows that want the same layers go through the backbone together, and once where they show the
    same picture: `same_picture` maps each row to the first one that does. Also returns the batch
    size that fitted into the device's memory: halved as often as it took.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in samples:
        if same_picture[row] == row:
            groups.setdefault(wanted[row], []).append(row)
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for layers, rows in groups.items():
        first = 0
        while layers and first < len(rows):
            assert backbone is not None, "features are to be computed"
            batch = rows[first : first + batch_size]
            stacked = torch.from_numpy(np.stack([samples[row].picture for row in batch]))
            try:
                outputs = backbone.forward(stacked.permute(0, 3, 1, 2), layers)
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                continue
            first += len(batch)
            for layer, values in outputs.items():
                encoded = encode_features(values, dtype, is_grid=backbone.layers[layer].is_grid)
                arrays = encoded.as_arrays(layer_key(layer), scales_key(layer))
                for number, row in enumerate(batch):
                    own = {name: array[number] for name, array in arrays.items()}
                    found.setdefault(layer, {})[row] = own
    for rows_of in found.values():
        for row in samples:
            if same_picture[row] in rows_of:
                rows_of[row] = rows_of[same_picture[row]]
    return found, batch_size


def _same_picture(
    writer: StoreWriter, samples: Mapping[int, ReadSample], wanted: Mapping[int, tuple[str, ...]]
) -> dict[int, int]:
    """Each row with the first that shows the same picture and wants the same layers."""
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    return {
        row: first.setdefault((writer.samples[row]["image_sha256"], wanted[row]), row)
        for row in samples
    }
