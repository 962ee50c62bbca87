"""A store's pending shards, from pictures, from the backbone, and from earlier stores."""

import os
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
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

PICTURE_ARRAYS = ("targets", "thumbnails", "masks")

_Reading = Future[ReadSample | str]


def fill_store(
    writer: StoreWriter,
    backbone: Backbone,
    reuse: EarlierStores,
    *,
    read: Callable[[Sample], ReadSample | str],
    batch_size: int,
    kept: Mapping[int, Mapping[str, StoredShard]] = MappingProxyType({}),
    decode_threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write every shard that is pending, then declare the store complete.

    `read` gives a sample's picture and masks, or why it has none. `kept` maps shards to those of
    their arrays whose files are good already. Raises as `extract` does.
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
    work = [_plan(writer, shard, reuse, kept.get(shard, {})) for shard in pending]
    writer.require_space(plan.shard for plan in work if plan.computed)
    with (
        ThreadPoolExecutor(decode_threads or os.cpu_count()) as decoders,
        ThreadPoolExecutor(1) as shard_writer,
        # Closed first, so that nothing more is queued once an error is on its way.
        closing(_read_ahead(decoders, read, writer, work)) as shards,
    ):
        writing: Future[None] | None = None
        for plan, readings in shards:
            read_samples: dict[int, ReadSample] = {}
            failures = dict(plan.failures)
            for row, reading in readings.items():
                outcome = reading.result()
                if isinstance(outcome, str):
                    failures[row] = outcome
                else:
                    read_samples[row] = outcome
            features = _features(
                backbone, [s.picture for s in read_samples.values()], plan.layers, dtype, batch_size
            )
            rows = [row for row in writer.shard_rows(plan.shard) if row not in failures]
            stored = _stored_arrays(writer, plan, reuse, failures)
            arrays: dict[str, Sequence[np.ndarray]] = {}
            for layer in layers:
                if layer_key(layer) not in stored:
                    taken = _layer_values(
                        layer, rows, list(read_samples), features.get(layer, {}), reuse, dtype
                    )
                    names = (layer_key(layer), scales_key(layer))
                    arrays |= {n: taken.get(n, []) for n in names if n in writer.arrays}
            for name in PICTURE_ARRAYS:
                if name not in stored:
                    arrays[name] = _picture_values(name, rows, read_samples, reuse)
            # One shard is written while the next is computed; more would only fill the memory.
            if writing is not None:
                writing.result()
            writing = shard_writer.submit(
                writer.write_shard, plan.shard, rows, arrays, failures, stored
            )
            done += len(writer.shard_rows(plan.shard))
            progress(done, total)
        if writing is not None:
            writing.result()
    writer.finish()
    progress(total, total)


@dataclass(frozen=True)
class _ShardPlan:
    """What is to be done for one shard: the rows whose pictures must be seen, the layers that the
    backbone must compute for them, rows known to fail, and files that are good already."""

    shard: int
    computed: list[int]
    layers: list[str]
    failures: dict[int, str]
    kept: Mapping[str, StoredShard]


def _plan(
    writer: StoreWriter, shard: int, reuse: EarlierStores, kept: Mapping[str, StoredShard]
) -> _ShardPlan:
    wanted = [layer for layer in writer.header.layers if layer_key(layer) not in kept]
    # A picture is needed for what comes from it directly, too.
    pictures = not set(PICTURE_ARRAYS) <= set(kept)
    computed, missing, failures = [], set(), {}
    for row in writer.shard_rows(shard):
        reason = reuse.failure(row)
        if reason is not None:
            failures[row] = reason
            continue
        layers = reuse.missing_layers(row, wanted)
        first = reuse.first
        if layers or (pictures and (first is None or row not in first.row_of)):
            computed.append(row)
            missing |= set(layers)
    return _ShardPlan(
        shard, computed, [layer for layer in wanted if layer in missing], failures, kept
    )


def _stored_arrays(
    writer: StoreWriter, plan: _ShardPlan, reuse: EarlierStores, failures: Mapping[int, str]
) -> dict[str, StoredShard]:
    """The arrays of a shard whose files need not be made: kept, or whole in an earlier store."""
    stored = dict(plan.kept)
    rows = writer.shard_rows(plan.shard)
    for name, array in writer.arrays.items():
        kind, _, layer = name.partition("/")
        earlier = reuse.with_layer(layer) if kind in ("layers", "scales") else reuse.first
        if name not in stored and earlier is not None:
            found = earlier.stored_shard(array, rows, failures)
            if found is not None:
                stored[name] = found
    return stored


def _layer_values(
    layer: str,
    rows: Sequence[int],
    computed: Sequence[int],
    features: Mapping[str, np.ndarray],
    reuse: EarlierStores,
    dtype: str,
) -> dict[str, Sequence[np.ndarray]]:
    """A layer's arrays of all `rows`: computed ones from `features`, the others from earlier."""
    place = {row: number for number, row in enumerate(computed)} if features else {}
    earlier = reuse.with_layer(layer)
    taken = [row for row in rows if row not in place]
    read = earlier.read_layer(layer, taken, dtype) if earlier is not None and taken else {}
    taken_place = {row: number for number, row in enumerate(taken)}
    return {
        name: [
            features[name][place[row]] if row in place else read[name][taken_place[row]]
            for row in rows
        ]
        for name in features or read
    }


def _picture_values(
    name: str, rows: Sequence[int], samples: Mapping[int, ReadSample], reuse: EarlierStores
) -> Sequence[np.ndarray]:
    """Targets, thumbnails or masks of all `rows`, from the pictures or from the earlier store."""
    field = {"targets": "target", "thumbnails": "thumbnail", "masks": "mask"}[name]
    taken = [row for row in rows if row not in samples]
    read: Iterable[np.ndarray] = []
    if taken:
        assert reuse.first is not None, "a row without a picture comes from an earlier store"
        read = reuse.first.read_array(name, taken)
    found = dict(zip(taken, read, strict=True))
    return [getattr(samples[row], field) if row in samples else found[row] for row in rows]


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
        waiting.popleft()
        yield plan, readings
        return
    for reading in readings.values():
        reading.cancel()
    waiting.popleft()


def _features(
    backbone: Backbone,
    pictures: Sequence[np.ndarray],
    layers: Sequence[str],
    dtype: str,
    batch_size: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Features of HWC uint8 pictures: layer to the arrays, by name, that hold it in `dtype`."""
    batches: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in layers}
    for first in range(0, len(pictures) if layers else 0, batch_size):
        stacked = torch.from_numpy(np.stack(pictures[first : first + batch_size]))
        outputs = backbone.forward(stacked.permute(0, 3, 1, 2), layers)
        for name, values in outputs.items():
            encoded = encode_features(values, dtype, is_grid=backbone.layers[name].is_grid)
            batches[name].append(encoded.as_arrays(layer_key(name), scales_key(name)))
    return {
        layer: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for layer, parts in batches.items()
        if parts
    }
