"""What a store is to be, before anything of it is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.datasets.dataset_findings import duplicate_problems
from declip_pipeline.datasets.duplicates import find_duplicates
from declip_pipeline.datasets.manifest import Manifest, Sample
from declip_pipeline.extraction.reuse import find_earlier_stores, order_after
from declip_pipeline.extraction.sample_reading import ReadSample, sample_reader
from declip_pipeline.feature_dtype import feature_dtype
from declip_pipeline.feature_shape import FeatureShape
from declip_pipeline.images.views import View
from declip_pipeline.store.format import FORMAT_VERSION
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256, store_location
from declip_pipeline.store.reader import Store


@dataclass(frozen=True)
class StorePlan:
    """One store to be extracted.

    `samples` are the manifest's rows as plain JSON in the order of a new store's rows, `sizes`
    (N, 2) int32 their pictures' height and width in pixels, `layers` names to shapes, `earlier` the
    stores to take from what they have. `overwrite` says that what is there already does not count.
    `read` gives a sample's picture and masks, or why it has none. `problems` are lines on pictures
    that are learned from and tested on, or fake and real.
    """

    location: str
    identity: StoreIdentity
    layers: dict[str, FeatureShape]
    dataset: str
    fake_is_white: bool
    samples: list[Mapping[str, Any]]
    sizes: np.ndarray
    earlier: list[Store]
    overwrite: bool
    read: Callable[[Sample], ReadSample | str]
    problems: list[str]


def plan_store(
    manifest: Manifest,
    backbone: Backbone,
    *,
    layers: Sequence[str],
    sizes: np.ndarray,
    root: str | Path,
    view: View,
    dtype: str,
    max_megapixels: float,
    overwrite: bool,
) -> StorePlan:
    """Say what `extract` would make of the same arguments, writing nothing.

    Reads every picture and mask once, for their hashes. Raises `InputError`, `StoreError`.
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
        precision=backbone.precision,
    )
    earlier = (
        []
        if overwrite
        else find_earlier_stores(root, manifest.name, identity, samples, manifest.fake_is_white)
    )
    ordered = order_after(samples, earlier[0] if earlier else None)
    size_of = {sample.id: size for sample, size in zip(manifest.samples, sizes, strict=True)}
    return StorePlan(
        location=store_location(root, manifest.name, identity),
        identity=identity,
        layers={name: backbone.layers[name] for name in layers},
        dataset=manifest.name,
        fake_is_white=manifest.fake_is_white,
        samples=ordered,
        sizes=np.asarray([size_of[sample["id"]] for sample in ordered], np.int32),
        earlier=earlier,
        overwrite=overwrite,
        read=sample_reader(
            samples,
            root=manifest.root,
            view=view,
            fake_is_white=manifest.fake_is_white,
            preprocessing=backbone.preprocessing,
            max_megapixels=max_megapixels,
        ),
        problems=duplicate_problems(find_duplicates(manifest, hashes)),
    )
