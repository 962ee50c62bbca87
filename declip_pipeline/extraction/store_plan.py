"""Plan of a store, before anything of it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.datasets.checks import find_duplicates
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.findings import duplicate_problems
from declip_pipeline.datasets.opening import scanned_dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.tiles import tiled
from declip_pipeline.errors import InputError
from declip_pipeline.extraction.reuse import find_earlier_stores, order_after
from declip_pipeline.extraction.sample_reading import ReadSample, SampleReader
from declip_pipeline.features import FeatureShape, feature_dtype
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.images.views import View
from declip_pipeline.store.format import FORMAT_VERSION
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256, store_location
from declip_pipeline.store.reader import Store


@dataclass(frozen=True)
class StorePlan:
    """One store to be extracted.

    Args:
        location: Where it will lie.
        identity: Its identity.
        layers: Names to shapes.
        dataset: Name of the dataset.
        fake_is_white: Polarity of the mask files.
        samples: In the order of a new store's rows, with sizes and hashes.
        earlier: Stores to take rows from.
        overwrite: A store that is there already does not count.
        read: Returns a sample's image and masks, or the reason why it has none.
        remarks: Lines on unusual masks, and on images that are learned from and tested on, or
            fake and real.
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
    remarks: list[str]


def plan_store(
    dataset: Dataset,
    backbone: Backbone,
    *,
    layers: Sequence[str],
    root: str | Path,
    view: View,
    dtype: str,
    max_megapixels: float,
    overwrite: bool,
    tiles: Tiling | None = None,
) -> StorePlan:
    """Plan what `extract` would make of the same arguments, writing nothing.

    A dataset that was not scanned yet is scanned and checked here.

    Raises:
        InputError: For a dataset whose files do not pass the checks, and for tiles that are larger
            than all images or not what the backbone takes.
        StoreError: For an earlier store that cannot be read.
    """
    feature_dtype(dtype)
    lines: list[str] = []
    dataset = scanned_dataset(dataset, max_megapixels=max_megapixels, notice=lines.append)
    images = samples = dataset.samples
    if tiles is not None:
        lines += _remarks_on_tiles(tiles, images.sizes, backbone)
        samples = tiled(images, tiles)
    identity = StoreIdentity(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing.to_json(),
        view=view.name,
        layers=tuple(layers),
        dtype=dtype,
        manifest_sha256=manifest_sha256(dataset.fake_is_white, images),
        format_version=FORMAT_VERSION,
        precision=backbone.precision,
        tiles=None if tiles is None else str(tiles),
    )
    earlier = (
        []
        if overwrite
        else find_earlier_stores(root, dataset.name, identity, samples, dataset.fake_is_white)
    )
    ordered = order_after(samples, earlier[0] if earlier else None)
    return StorePlan(
        location=store_location(root, dataset.name, identity),
        identity=identity,
        layers={name: backbone.layers[name] for name in layers},
        dataset=dataset.name,
        fake_is_white=dataset.fake_is_white,
        samples=ordered,
        earlier=earlier,
        overwrite=overwrite,
        read=SampleReader(
            root=dataset.root,
            view=view,
            fake_is_white=dataset.fake_is_white,
            preprocessing=backbone.preprocessing,
            max_megapixels=max_megapixels,
        ),
        remarks=[
            *lines,
            *(f"problem: {one}" for one in duplicate_problems(find_duplicates(images))),
        ],
    )


def input_size(
    tiles: Tiling | None, image_size: int | tuple[int, int] | None
) -> int | tuple[int, int] | None:
    """Return the size that a backbone is to be opened with: a tile's, or else `image_size`.

    Raises `InputError` where both are given and differ.
    """
    if tiles is None:
        return image_size
    if image_size not in (None, tiles.size, (tiles.size, tiles.size)):
        raise InputError(
            f"`tiles` are {tiles.size} pixels wide and high, which the backbone sees as they are; "
            "leave out `image_size`"
        )
    return tiles.size


def _remarks_on_tiles(tiles: Tiling, sizes: np.ndarray, backbone: Backbone) -> list[str]:
    """Return lines on images that are smaller than a tile, of sizes (N, 2).

    Raises `InputError` where all are, and for a backbone of another input size.
    """
    seen = backbone.preprocessing
    if (seen.height, seen.width) != (tiles.size, tiles.size):
        raise InputError(
            f"`tiles` are {tiles.size} pixels wide and high, {backbone.name} takes images of "
            f"{seen.height}x{seen.width}; open it with `image_size={tiles.size}`"
        )
    known = sizes[(sizes > 0).all(axis=1)]
    if not len(known):
        return []
    if (known < tiles.size).all():
        height, width = known[known.prod(axis=1).argmax()].tolist()
        raise InputError(
            f"`tiles` of {tiles.size} pixels are larger than all images, of which the largest has "
            f"{width}x{height}; take smaller ones, or whole images with `image_size`"
        )
    small = int((known < tiles.size).any(axis=1).sum())
    if not small:
        return []
    return [
        f"{small} of {len(known)} images are smaller than a tile of {tiles.size} pixels on a side; "
        "such a side is enlarged to it"
    ]
