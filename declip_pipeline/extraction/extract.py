"""From a dataset and a backbone to a complete store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.extraction.reuse import find_earlier_stores, match_rows, order_after
from declip_pipeline.extraction.sample_reading import read_sample
from declip_pipeline.extraction.shard_filling import fill_store
from declip_pipeline.feature_dtype import feature_dtype
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.views import CLEAN_VIEW, View
from declip_pipeline.store.format import FORMAT_VERSION
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256, store_location
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.writer import StoreWriter, delete_store


@dataclass(frozen=True)
class Extraction:
    """What came of it: the store's location, its rows that failed with their reasons, and the
    earlier stores that gave what they had."""

    location: str
    was_complete: bool
    failures: dict[int, str]
    samples: list[dict[str, Any]]
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
) -> Extraction:
    """Run the frozen backbone over every sample and store the layers asked for.

    `sizes` is (N, 2) int32, height and width in pixels of each sample's picture (0 where it is
    unreadable). `view` is how the backbone sees each picture. `root` is a folder or an s3:// URL.
    `decode_threads` None is one a core. `provenance` (plain JSON) is kept as a record. `progress`
    is told pictures done and in all.

    A complete store is left alone; an interrupted one is finished, byte-identical to an undisturbed
    run with the same `batch_size`; what another store of the same dataset under `root` holds of the
    same pictures and layers is taken from there. `overwrite` makes all of it anew.

    Raises `InputError`, `StoreError`, `StorageFullError`; what was written so far stays usable by
    the next run of the same command.
    """
    feature_dtype(dtype)
    hashes = manifest.content_hashes()
    samples = manifest.records(hashes)
    identity = StoreIdentity(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing.to_json(),
        view=view.name,
        layers=tuple(layers),
        dtype=dtype,
        manifest_sha256=manifest_sha256(manifest.fake_is_white, samples),
        format_version=FORMAT_VERSION,
    )
    location = store_location(root, manifest.name, identity)
    if overwrite:
        delete_store(storage_at(location))
        earlier = []
    else:
        earlier = find_earlier_stores(
            root, manifest.name, identity, samples, manifest.fake_is_white
        )
    size_of = {sample.id: size for sample, size in zip(manifest.samples, sizes, strict=True)}
    ordered = order_after(samples, earlier[0] if earlier else None)
    writer = StoreWriter(
        location,
        identity=identity,
        layers={name: backbone.layers[name] for name in layers},
        dataset=manifest.name,
        provenance={"root": str(manifest.root), "batch_size": batch_size, **provenance},
        samples=ordered,
        fake_is_white=manifest.fake_is_white,
        sizes=np.asarray([size_of[sample["id"]] for sample in ordered]),
    )
    if writer.is_complete:
        return Extraction(location, True, writer.failures(), writer.samples, [])
    reuse = match_rows(writer, earlier)
    fill_store(
        writer,
        backbone,
        reuse,
        read=partial(
            read_sample,
            root=manifest.root,
            hashes=hashes,
            view=view,
            fake_is_white=manifest.fake_is_white,
            height=backbone.preprocessing.height,
            width=backbone.preprocessing.width,
            interpolation=backbone.preprocessing.interpolation,
            max_megapixels=max_megapixels,
        ),
        batch_size=batch_size,
        decode_threads=decode_threads,
        progress=progress,
    )
    return Extraction(location, False, writer.failures(), writer.samples, reuse.locations)
