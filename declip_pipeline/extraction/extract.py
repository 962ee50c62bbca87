"""From a dataset and a backbone to a complete store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.samples import FAKE, Samples
from declip_pipeline.extraction.reuse import match_rows
from declip_pipeline.extraction.shard_filling import ShardFiller
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.store_filling import fill_store
from declip_pipeline.extraction.store_plan import plan_store
from declip_pipeline.extraction.task import ShardWorkers
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.views import CLEAN_VIEW, View
from declip_pipeline.store.storage import absolute_location, storage_at
from declip_pipeline.store.writer import StoreWriter, delete_store


@dataclass(frozen=True)
class Extraction:
    """What came of it: the store's location, its rows that failed with their reasons, and the
    earlier stores that gave what they had."""

    location: str
    was_complete: bool
    failures: dict[int, str]
    samples: Samples
    reused: list[str]


def extract(
    manifest: Manifest,
    backbone: Backbone,
    *,
    layers: Sequence[str],
    sizes: np.ndarray,
    root: str | Path,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    view: View = CLEAN_VIEW,
    dtype: str = "float16",
    batch_size: int = 32,
    decode_threads: int | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
    times: StageTimes | None = None,
    workers: ShardWorkers | None = None,
) -> Extraction:
    """Run the frozen backbone over every sample and store the layers asked for.

    `sizes` is (N, 2) int32, height and width in pixels of each sample's picture (0 where it is
    unreadable). `view` is how the backbone sees each picture. `root` is a folder or an s3:// URL.
    `decode_threads` None is one a core. `provenance` (plain JSON) is kept as a record. `progress`
    is told pictures done and in all, `notice` lines that a user should see; `times` adds up where
    the time goes. `workers` compute in place of this process, whose `backbone` then only says what
    theirs must be.

    A complete store is left alone; an interrupted one is finished, byte-identical to an undisturbed
    run with the same `batch_size`; what another store of the same dataset under `root` holds of the
    same pictures and layers is taken from there. `overwrite` makes all of it anew.

    Raises `InputError`, `StoreError`, `StorageFullError`; what was written so far stays usable by
    the next run of the same command.
    """
    times = times or StageTimes()
    with times.measure("hash"):
        plan = plan_store(
            manifest,
            backbone,
            layers=layers,
            sizes=sizes,
            root=root,
            view=view,
            dtype=dtype,
            max_megapixels=max_megapixels,
            overwrite=overwrite,
        )
    for problem in plan.problems:
        notice(f"problem: {problem}")
    if workers is not None:
        workers.require_sight(root, manifest.root, _some_files(plan.samples))
    if overwrite:
        delete_store(storage_at(plan.location))
    writer = StoreWriter(
        plan.location,
        identity=plan.identity,
        layers=plan.layers,
        dataset=plan.dataset,
        provenance={
            "root": str(manifest.root),
            "batch_size": batch_size,
            **({"compiled": True} if backbone.is_compiled else {}),
            **provenance,
        },
        samples=plan.samples,
        fake_is_white=plan.fake_is_white,
    )
    if writer.is_complete:
        return Extraction(plan.location, True, writer.failures(), writer.samples, [])
    reuse = match_rows(writer.samples, writer.header.identity, plan.earlier)
    filler = ShardFiller(
        writer,
        backbone,
        reuse,
        read=plan.read,
        batch_size=batch_size,
        decode_threads=decode_threads,
        notice=notice,
        times=times,
    )
    fill = None
    if workers is not None:
        fill = partial(
            workers.fill,
            location=absolute_location(plan.location),
            data_root=manifest.root,
            earlier=[absolute_location(store.location) for store in plan.earlier],
            batch_size=batch_size,
            decode_threads=decode_threads,
            max_megapixels=max_megapixels,
            is_compiled=backbone.is_compiled,
            notice=notice,
            times=times,
        )
    fill_store(filler, fill=fill, progress=progress)
    return Extraction(plan.location, False, writer.failures(), writer.samples, reuse.locations)


def _some_files(samples: Samples) -> dict[str, str]:
    """The first and the last image and mask, with their SHA-256: parts of a dataset may lie on
    disks of their own."""
    masked = samples.rows(label=FAKE)
    files = {s.image: str(s.image_sha256) for s in (samples[0], samples[-1])}
    for row in (*masked[:1], *masked[-1:]):
        sample = samples[row]
        files[str(sample.mask)] = str(sample.mask_sha256)
    return files
