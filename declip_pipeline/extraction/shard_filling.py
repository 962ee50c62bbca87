"""Filling of shards: a pipeline of images, the backbone, and earlier stores."""

import os
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType

import numpy as np
import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import is_out_of_memory
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import StoreError
from declip_pipeline.extraction.feature_computing import (
    ComputedBatch,
    FeatureComputer,
)
from declip_pipeline.extraction.reuse import EarlierStores
from declip_pipeline.extraction.sample_reading import ReadSample
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.images.tiles import Window
from declip_pipeline.store.format import layer_key, scales_key
from declip_pipeline.store.writer import StoredShard, StoreWriter

# What comes from an image directly, and where a decoded sample has it.
PICTURE_ARRAYS = MappingProxyType({"targets": "target", "thumbnails": "thumbnail", "masks": "mask"})

# One waits for the disk, one is encoded, while the next is computed; more would fill the memory.
SHARDS_BEING_WRITTEN = 2
# With those whose images are being read: the one asked for, and the one after it.
SHARDS_IN_MEMORY = SHARDS_BEING_WRITTEN + 2

_Reading = Future[ReadSample | str]
# To each layer and row, the batch that has it and its place there.
_Computed = dict[str, dict[int, tuple[ComputedBatch, int]]]


class ShardFiller:
    """Writes any shards of one store. Images are decoded in threads, a shard ahead of the
    backbone; what it computed is written in threads, while it computes the next.
    """

    def __init__(
        self,
        writer: StoreWriter,
        backbone: Backbone | None,
        reuse: EarlierStores,
        *,
        read: Callable[[Sample], ReadSample | str],
        batch_size: int,
        kept: Mapping[int, Mapping[str, StoredShard]] = MappingProxyType({}),
        decode_threads: int | None = None,
        notice: Callable[[str], None] = lambda line: None,
        times: StageTimes | None = None,
    ) -> None:
        """`read` gives a sample's image and masks, or why it has none.

        `backbone` may be None where `reuse` has all there is to compute. `kept` maps shards to
        those of their arrays whose files are good already. `decode_threads` None is one a core.
        `notice` is told, in a line, when the device's memory is too small for `batch_size`.
        """
        self.writer = writer
        self._reuse = reuse
        self._read = read
        # A batch never reaches into the next shard.
        self._batch_size = min(batch_size, writer.header.rows_per_shard)
        self._kept = kept
        # A job of a cluster may use but some of a machine's cores.
        self._decode_threads = decode_threads or len(os.sched_getaffinity(0))
        self._notice = notice
        self._times = times or StageTimes()
        self._computer = None
        if backbone is not None:
            self._computer = FeatureComputer(backbone, writer.header.identity.dtype, self._times)
        # Several threads may fill shards; the device computes for one of them at a time.
        self._computing = Lock()

    def stored_arrays(self, shard: int) -> set[str]:
        """The names of the arrays of a shard that will take no room, being stored already."""
        plan = _ShardPlan(shard, {}, self._known_failures(shard), self._kept.get(shard, {}))
        return set(self._stored_arrays(plan, plan.failures))

    def fill(self, shards: Sequence[int]) -> Generator[int, None, None]:
        """Write these shards; yields each that is done. One that another has written is left out.

        Raises as `extract` does. Close it to stop: shards are written whole or not at all.
        """
        with (
            ThreadPoolExecutor(self._decode_threads) as decoders,
            ThreadPoolExecutor(SHARDS_BEING_WRITTEN) as shard_writers,
            # Closed first, so that nothing more is queued once an error is on its way.
            closing(self._read_ahead(decoders, shards)) as work,
        ):
            writing: deque[tuple[int, Future[None]]] = deque()
            for plan, readings in work:
                computed, samples, failures = self._compute(plan, readings)
                if len(writing) == SHARDS_BEING_WRITTEN:
                    yield self._written(writing)
                written = shard_writers.submit(self._write, plan, computed, samples, failures)
                writing.append((plan.shard, written))
            while writing:
                yield self._written(writing)
            if self._computer is not None:
                with self._computing:
                    self._computer.finish()

    def _written(self, writing: "deque[tuple[int, Future[None]]]") -> int:
        """Wait for the first of the shards that are being written."""
        shard, written = writing.popleft()
        with self._times.measure("queue"):
            written.result()
        return shard

    def _plan(self, shard: int) -> "_ShardPlan":
        kept = self._kept.get(shard, {})
        wanted = [
            layer
            for layer in self.writer.header.layers
            if not set(self._layer_arrays(layer)) <= set(kept)
        ]
        # An image is needed for what comes from it directly, too.
        pictures = not set(PICTURE_ARRAYS) & set(self.writer.arrays) <= set(kept)
        computed, failures = {}, self._known_failures(shard)
        rows = self.writer.shard_rows(shard)
        have_layer = {layer: self._reuse.have(rows, layer).tolist() for layer in wanted}
        have_any = self._reuse.have(rows, None).tolist()
        for place, row in enumerate(rows):
            if row in failures:
                continue
            layers = tuple(layer for layer in wanted if not have_layer[layer][place])
            if layers or (pictures and not have_any[place]):
                computed[row] = layers
        return _ShardPlan(shard, computed, failures, kept)

    def _known_failures(self, shard: int) -> dict[int, str]:
        # With the images at hand, one that failed before is tried again: limits may have changed.
        if self._computer is not None:
            return {}
        return self._reuse.failures(self.writer.shard_rows(shard))

    def _layer_arrays(self, layer: str) -> list[str]:
        """The names of the arrays that hold a layer."""
        names = (layer_key(layer), scales_key(layer))
        return [name for name in names if name in self.writer.arrays]

    def _stored_arrays(
        self, plan: "_ShardPlan", failures: Mapping[int, str]
    ) -> dict[str, StoredShard]:
        """The arrays of a shard whose files need not be made: kept, or whole in another store."""
        stored = dict(plan.kept)
        rows = self.writer.shard_rows(plan.shard)
        for name, array in self.writer.arrays.items():
            if name not in stored:
                found = self._reuse.stored_shard(
                    array, rows, failures, self.writer.header.rows_per_shard
                )
                if found is not None:
                    stored[name] = found
        return stored

    def _read_ahead(
        self, threads: ThreadPoolExecutor, shards: Sequence[int]
    ) -> Generator[tuple["_ShardPlan", dict[int, _Reading]], None, None]:
        """Shards with their images being read, one shard ahead of the one asked for.

        A shard that another extractor has written meanwhile is left out.
        """
        waiting: deque[tuple[_ShardPlan, dict[int, _Reading]]] = deque()
        try:
            for shard in shards:
                if self.writer.is_written(shard):
                    continue
                plan = self._plan(shard)
                readings = {
                    row: threads.submit(self._decode, self.writer.samples[row])
                    for row in plan.computed
                }
                waiting.append((plan, readings))
                if len(waiting) > 1:
                    yield from self._unwritten(waiting)
            while waiting:
                yield from self._unwritten(waiting)
        finally:
            for _, readings in waiting:
                for reading in readings.values():
                    reading.cancel()

    def _unwritten(
        self, waiting: "deque[tuple[_ShardPlan, dict[int, _Reading]]]"
    ) -> Iterator[tuple["_ShardPlan", dict[int, _Reading]]]:
        """The first shard that waits, unless it was written while it waited."""
        plan, readings = waiting[0]
        if not self.writer.is_written(plan.shard):
            yield plan, readings
        for reading in readings.values():
            reading.cancel()
        waiting.popleft()

    def _decode(self, sample: Sample) -> ReadSample | str:
        with self._times.measure("decode"):
            return self._read(sample)

    def _compute(
        self, plan: "_ShardPlan", readings: Mapping[int, _Reading]
    ) -> tuple[_Computed, dict[int, ReadSample], dict[int, str]]:
        """Compute a shard: its features, the samples that were read, and why others failed.

        Images go through the backbone in row order as they come; those that want the same layers
        together, and once where they are the same image.
        """
        samples: dict[int, ReadSample] = {}
        failures = dict(plan.failures)
        places: dict[int, tuple[ComputedBatch, int]] = {}
        batches: dict[tuple[str, ...], list[int]] = {}
        first_of: dict[tuple[str, Window | None, tuple[str, ...]], int] = {}
        same_as: dict[int, int] = {}
        for row, reading in readings.items():
            with self._times.measure("wait"):
                outcome = reading.result()
            if isinstance(outcome, str):
                failures[row] = outcome
                continue
            self._require_size(row, outcome)
            samples[row] = outcome
            layers = plan.computed[row]
            if layers:
                sample = self.writer.samples[row]
                picture = sample.image_sha256 or ""
                same_as[row] = first_of.setdefault((picture, sample.window, layers), row)
                if same_as[row] == row:
                    batches.setdefault(layers, []).append(row)
                    if len(batches[layers]) == self._batch_size:
                        places |= self._compute_batch(batches.pop(layers), samples, layers)
        for layers, rows in batches.items():
            places |= self._compute_batch(rows, samples, layers)
        computed: _Computed = {}
        for row, first in same_as.items():
            for layer in plan.computed[row]:
                computed.setdefault(layer, {})[row] = places[first]
        return computed, samples, failures

    def _require_size(self, row: int, sample: ReadSample) -> None:
        """Raise `StoreError` unless an image has the size that the store was begun with."""
        expected, found = tuple(self.writer.sizes[row].tolist()), sample.mask.shape
        if found != expected:
            raise StoreError(
                f"{self.writer.samples[row].image} has {found[0]}x{found[1]} pixels, and had "
                f"{expected[0]}x{expected[1]} when the extraction began: it changed, or could not "
                "be read then; run the same command again with `overwrite=True`"
            )

    def _compute_batch(
        self, rows: Sequence[int], samples: Mapping[int, ReadSample], layers: Sequence[str]
    ) -> dict[int, tuple[ComputedBatch, int]]:
        """The rows' features, each as a batch and its place there.

        A batch that the device's memory cannot hold goes in halves, as all that come after it.
        """
        assert self._computer is not None, "features are to be computed"
        places: dict[int, tuple[ComputedBatch, int]] = {}
        with self._computing:
            fitting = self._batch_size
            while len(places) < len(rows):
                part = rows[len(places) : len(places) + fitting]
                try:
                    pictures = [samples[row].picture for row in part]
                    batch = self._computer.compute(pictures, layers, full_batch=fitting)
                except RuntimeError as error:
                    if fitting == 1 or not is_out_of_memory(error):
                        raise
                    self._computer.finish()
                    torch.cuda.empty_cache()
                    fitting = min(fitting, len(part)) // 2 or 1
                    continue
                places |= {row: (batch, number) for number, row in enumerate(part)}
            if fitting < self._batch_size:
                self._notice(
                    f"the device's memory is too small for batches of {self._batch_size}; "
                    f"going on with {fitting}"
                )
                self._batch_size = fitting
        return places

    def _write(
        self,
        plan: "_ShardPlan",
        computed: _Computed,
        samples: Mapping[int, ReadSample],
        failures: Mapping[int, str],
    ) -> None:
        """Write a shard: what was computed and read, and the rest from earlier stores."""
        rows = [row for row in self.writer.shard_rows(plan.shard) if row not in failures]
        stored = self._stored_arrays(plan, failures)
        arrays: dict[str, Sequence[np.ndarray]] = {}
        for layer in self.writer.header.layers:
            names = [name for name in self._layer_arrays(layer) if name not in stored]
            if names:
                own = computed.get(layer, {})
                values = {
                    row: batch.row_arrays(number, layer) for row, (batch, number) in own.items()
                }
                others = [row for row in rows if row not in own]
                values |= self._reuse.read_layer(layer, others, self.writer.header.identity.dtype)
                arrays |= {name: [values[row][name] for row in rows] for name in names}
        for name, field in PICTURE_ARRAYS.items():
            if name in self.writer.arrays and name not in stored:
                seen = {row: {name: getattr(s, field)} for row, s in samples.items()}
                others = [row for row in rows if row not in seen]
                values = seen | self._reuse.read_array(name, others)
                arrays[name] = [values[row][name] for row in rows]
        with self._times.measure("write"):
            self.writer.write_shard(plan.shard, rows, arrays, failures, stored)


@dataclass(frozen=True)
class _ShardPlan:
    """Work on one shard: the rows whose images must be read, each with the layers
    that the backbone must compute for it, rows known to fail, and files that are good already."""

    shard: int
    computed: dict[int, tuple[str, ...]]
    failures: dict[int, str]
    kept: Mapping[str, StoredShard]


# Writes shards and yields each that is done.
FillShards = Callable[[Sequence[int]], Generator[int, None, None]]


def fill_store(
    filler: ShardFiller,
    *,
    fill: FillShards | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write every shard that is pending, then declare the store complete.

    `fill` writes them, by default `filler` itself, in this process. `progress(done, total)` is
    called with numbers of images. Raises as `extract` does.
    """
    writer = filler.writer
    pending = writer.pending_shards()
    total = writer.header.rows
    done = total - sum(len(writer.shard_rows(shard)) for shard in pending)
    progress(done, total)
    writer.require_space(pending, {shard: filler.stored_arrays(shard) for shard in pending})
    # Several extractors may fill one store. Each takes the shards in an order of its own and
    # leaves out what another has done meanwhile, so they seldom meet and need no locks to live on.
    random.shuffle(pending)
    with closing((fill or filler.fill)(pending)) as written:
        for shard in written:
            done += len(writer.shard_rows(shard))
            progress(done, total)
    writer.finish()
    progress(total, total)
