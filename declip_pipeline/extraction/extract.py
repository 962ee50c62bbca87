"""From a dataset and a backbone to a complete store."""

import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.errors import InputError
from declip_pipeline.extraction.sample_reading import ReadSample, read_sample
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.store.format import DTYPES, FORMAT_VERSION, layer_key
from declip_pipeline.store.identity import StoreIdentity, store_path
from declip_pipeline.store.storage import Storage
from declip_pipeline.store.writer import StoreWriter

CLEAN = "clean"


@dataclass(frozen=True)
class Extraction:
    """What came of it: the store's path, and its rows that failed with their reasons."""

    path: Path
    was_complete: bool
    failures: dict[int, str]


def extract(
    manifest: Manifest,
    backbone: Backbone,
    *,
    layers: Sequence[str],
    sizes: np.ndarray,
    root: Path,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    dtype: str = "float16",
    batch_size: int = 32,
    decode_threads: int | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Extraction:
    """Run the frozen backbone over every sample and store the layers asked for.

    `sizes` is (N, 2) int32, height and width in pixels of each sample's picture (0 where it is
    unreadable). `decode_threads` None is one a core. `provenance` (plain JSON) is kept as a
    record. `progress` is told pictures done and in all. A complete store is left alone; an
    interrupted one is finished, byte-identical to an undisturbed run with the same `batch_size`.

    Raises `InputError`, `StoreError`, `StorageFullError`; what was written so far stays usable by
    the next run of the same command.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")
    hashes = manifest.content_hashes()
    identity = StoreIdentity(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing.to_json(),
        view=CLEAN,
        layers=tuple(layers),
        dtype=dtype,
        manifest_sha256=manifest.sha256(hashes),
        format_version=FORMAT_VERSION,
    )
    path = store_path(root, manifest.name, identity)
    if overwrite and path.exists():
        Storage(path).delete_all()
    writer = StoreWriter(
        path,
        identity=identity,
        layers={name: backbone.layers[name] for name in layers},
        dataset=manifest.name,
        provenance={"root": str(manifest.root), **provenance},
        samples=[sample.to_json() for sample in manifest.samples],
        fake_is_white=manifest.fake_is_white,
        sizes=sizes,
    )
    if writer.is_complete:
        return Extraction(path, was_complete=True, failures=writer.failures())
    writer.require_space()
    read = partial(
        read_sample,
        root=manifest.root,
        hashes=hashes,
        fake_is_white=manifest.fake_is_white,
        height=backbone.preprocessing.height,
        width=backbone.preprocessing.width,
        interpolation=backbone.preprocessing.interpolation,
        max_megapixels=max_megapixels,
    )
    pending = writer.pending_shards()
    wanted = [row for shard in pending for row in writer.shard_rows(shard)]
    done = len(manifest.samples) - len(wanted)
    progress(done, len(manifest.samples))
    with (
        ThreadPoolExecutor(decode_threads or os.cpu_count()) as decoders,
        ThreadPoolExecutor(1) as shard_writer,
        # Closed first, so that nothing more is queued once an error is on its way.
        closing(_read_ahead(decoders, lambda row: read(manifest.samples[row]), wanted)) as samples,
    ):
        writing: Future[None] | None = None
        for shard in pending:
            read_samples: dict[int, ReadSample] = {}
            failures: dict[int, str] = {}
            for row in writer.shard_rows(shard):
                outcome = next(samples)
                if isinstance(outcome, str):
                    failures[row] = outcome
                else:
                    read_samples[row] = outcome
            features = _features(
                backbone, [s.picture for s in read_samples.values()], layers, dtype, batch_size
            )
            arrays: dict[str, Sequence[np.ndarray] | np.ndarray] = {
                **{layer_key(name): values for name, values in features.items()},
                "targets": [s.target for s in read_samples.values()],
                "masks": [s.mask for s in read_samples.values()],
                "thumbnails": [s.thumbnail for s in read_samples.values()],
            }
            # One shard is written while the next is computed; more would only fill the memory.
            if writing is not None:
                writing.result()
            writing = shard_writer.submit(
                writer.write_shard, shard, list(read_samples), arrays, failures
            )
            done += len(writer.shard_rows(shard))
            progress(done, len(manifest.samples))
        if writing is not None:
            writing.result()
    writer.finish()
    return Extraction(path, was_complete=False, failures=writer.failures())


def _read_ahead(
    threads: ThreadPoolExecutor, read: Callable[[int], ReadSample | str], rows: Sequence[int]
) -> Generator[ReadSample | str, None, None]:
    """Read `rows` in order, a bounded number ahead of what has been asked for."""
    waiting: deque[Future[ReadSample | str]] = deque()
    try:
        for row in rows:
            waiting.append(threads.submit(read, row))
            if len(waiting) > 64:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _features(
    backbone: Backbone,
    pictures: Sequence[np.ndarray],
    layers: Sequence[str],
    dtype: str,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Features of HWC uint8 pictures: layer to (N, *shape) in `dtype`."""
    batches: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    for first in range(0, len(pictures), batch_size):
        stacked = torch.from_numpy(np.stack(pictures[first : first + batch_size]))
        outputs = backbone.forward(stacked.permute(0, 3, 1, 2), layers)
        for name, values in outputs.items():
            batches[name].append(values.to(getattr(torch, dtype)).cpu().numpy())
    return {
        name: np.concatenate(parts) if parts else np.empty((0,), dtype)
        for name, parts in batches.items()
    }
