"""What a store is to be, before anything of it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.datasets.dataset_findings import duplicate_problems
from declip_pipeline.datasets.duplicates import find_duplicates
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.samples import Sample, Samples
from declip_pipeline.extraction.reuse import find_earlier_stores, order_after
from declip_pipeline.extraction.sample_reading import ReadSample, sample_reader
from declip_pipeline.features import FeatureShape, feature_dtype
from declip_pipeline.images.views import View
from declip_pipeline.store.format import FORMAT_VERSION
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256, store_location
from declip_pipeline.store.reader import Store


@dataclass(frozen=True)
class StorePlan:
    """One store to be extracted.

    `samples` are in the order of a new store's rows, with sizes and hashes, `layers` names to
    shapes, `earlier` the stores whose content is taken over. With `overwrite`, what is at
    `location` does not count. `read` decodes a sample, or returns why it cannot. `problems` are
    lines on images that are both learned from and tested on, or both fake and real.
    """

    location: str
    identity: StoreIdentity
    layers: dict[str, FeatureShape]
    dataset: str
    fake_is_white: bool
    samples: Samples
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
    samples = manifest.scanned(hashes, sizes)
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
    return StorePlan(
        location=store_location(root, manifest.name, identity),
        identity=identity,
        layers={name: backbone.layers[name] for name in layers},
        dataset=manifest.name,
        fake_is_white=manifest.fake_is_white,
        samples=ordered,
        earlier=earlier,
        overwrite=overwrite,
        read=sample_reader(
            root=manifest.root,
            view=view,
            fake_is_white=manifest.fake_is_white,
            preprocessing=backbone.preprocessing,
            max_megapixels=max_megapixels,
        ),
        problems=duplicate_problems(find_duplicates(manifest, hashes)),
    )
