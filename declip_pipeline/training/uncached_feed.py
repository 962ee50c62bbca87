"""Batches without a cache: images from their files and through the backbone, again each time."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import torch_threads
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.extraction.recorded_backbones import open_store_backbone
from declip_pipeline.extraction.sample_reading import ReadSample, SampleReader
from declip_pipeline.features import to_device
from declip_pipeline.feeding.batch import Batch, Rows
from declip_pipeline.feeding.feed import (
    TargetKind,
    counted_rows,
    images_of,
    in_place,
    labels_as_targets,
    read_ahead,
)
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.views import view_named
from declip_pipeline.store.reader import Store

# Images in one forward pass, as extraction has them: a step of many must not fill the memory.
PICTURES_AT_ONCE = 32

# An image (HWC uint8, of the backbone's input size) and its target (256, 256) uint8.
_Shown = tuple[np.ndarray, np.ndarray]


class RecordedBackbones:
    """The backbones that stores were made with, each opened once, on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._opened: dict[tuple[str, str, str], Backbone] = {}

    def of(self, store: Store) -> Backbone:
        """The backbone that a store was made with, in its precision, not compiled.

        Raises what `open_store_backbone` does.
        """
        identity = store.identity
        key = identity.backbone, identity.weights_sha256, identity.precision
        if key not in self._opened:
            self._opened[key] = open_store_backbone(
                store.header,
                store.location,
                arch=str(store.provenance.get("arch", identity.backbone)),
                weights=store.provenance.get("weights") or (),
                device=str(self._device),
                remedy="bring those weights back, or extract with these",
            )
        return self._opened[key]


class UncachedFeed:
    """A `BatchFeed` that takes from stores only their records: which images, and whose features.

    Every batch's images and masks are decoded from their files, in threads, ahead of their use;
    the features are computed in one forward pass for all layers of a backbone, and stay float32 as
    they are. Slow, and the reference for what a store saves and
    changes; the mean of its metrics, image by image, is that of `validation_ious` of batches.
    Source: the reference's training loop (DeCLIP, arXiv 2409.08849).
    """

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        sources: Sequence[FeatureSource],
        *,
        device: torch.device,
        backbones: RecordedBackbones,
        targets: TargetKind = "masks",
    ) -> None:
        """`parts` are stores with the rows to take of each, in order.

        Raises `StoreError` for a store that does not know where its images are, or images that
        are not there, `InputError` as `FeatureSource.rows_of` does, and what opening the backbones
        raises.
        """
        self.device = device
        # A light decoder is trained with one; its backbone is not light.
        self._torch_threads = torch.get_num_threads()
        if any(source.is_at_windows(store) for source in sources for store, _ in parts):
            raise InputError(
                "`uncached=True` computes the features of tiles from these alone; train with whole "
                "images beside tiles from their stores"
            )
        self.image_of = images_of(parts)
        self._rows_text = counted_rows(parts)
        self.labels = np.concatenate([store.labels[rows] for store, rows in parts])
        self._ids = [name for store, rows in parts for name in store.samples.take(rows).ids]
        self._labels = (
            torch.cat([labels_as_targets(store, rows) for store, rows in parts])
            if targets == "labels"
            else None
        )
        # Layers of the same backbone are computed together, whichever store names them.
        together: dict[tuple[Backbone, ...], list[FeatureSource]] = {}
        for source in dict.fromkeys(sources):
            opened = tuple(backbones.of(source.store_of(store)) for store, _ in parts)
            together.setdefault(opened, []).append(source)
        self._views = [_View(parts, some, backbones) for some in together.values()]

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def description(self) -> str:
        """Description of the feed in a line."""
        layers = ", ".join(source.layer for view in self._views for source in view.sources)
        names = ", ".join(dict.fromkeys(name for view in self._views for name in view.backbones))
        return f"{layers}: {self._rows_text}, read and computed anew each time by {names}"

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """The ids of the samples at these positions."""
        return [self._ids[position] for position in positions.tolist()]

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at the positions `order` (int64); the last one may be smaller.

        Raises `StoreError` naming a file that is gone, has changed since the store was made, or
        cannot be read any more.
        """
        threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        try:
            begin = partial(self._begin, threads)
            for positions, readings in read_ahead(order, batch_size, begin):
                features: dict[FeatureSource, tuple[str, Rows]] = {}
                for view, reading in zip(self._views, readings, strict=True):
                    shown = [one.result() for one in reading]
                    with torch_threads(self._torch_threads):
                        features |= view.features(positions, [picture for picture, _ in shown])
                # All views have the same masks.
                targets = (
                    torch.from_numpy(np.stack([target for _, target in shown]))
                    if self._labels is None
                    else self._labels[torch.from_numpy(positions)]
                )
                yield Batch(positions, self.device, features, Rows((targets,)))
        finally:
            threads.shutdown(cancel_futures=True)

    def _begin(
        self, threads: ThreadPoolExecutor, positions: np.ndarray
    ) -> list[list[Future[_Shown]]]:
        return [view.begin(threads, positions) for view in self._views]


@dataclass(frozen=True)
class _ViewPart:
    """Rows of one store: how to read a sample, and the backbone in its precision."""

    read: Callable[[Sample], _Shown]
    samples: Samples
    rows: np.ndarray
    backbone: Backbone


class _View:
    """Samples as one backbone sees them, and the layers that are wanted."""

    def __init__(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        sources: Sequence[FeatureSource],
        backbones: RecordedBackbones,
    ) -> None:
        self.sources = sources
        self._layers = list(dict.fromkeys(source.layer for source in sources))
        self._parts: list[_ViewPart] = []
        for fed, rows in parts:
            store = sources[0].store_of(fed)
            backbone = backbones.of(store)
            own = sources[0].rows_of(fed, rows)
            self._parts.append(_ViewPart(_reader(store, backbone), store.samples, own, backbone))
        self._first = np.cumsum([0, *(len(part.rows) for part in self._parts)])

    @property
    def backbones(self) -> list[str]:
        """The names of the backbones, one but for precisions."""
        return list(dict.fromkeys(part.backbone.name for part in self._parts if len(part.rows)))

    def _part_of(self, positions: np.ndarray) -> list[int]:
        parts: list[int] = (np.searchsorted(self._first, positions, side="right") - 1).tolist()
        return parts

    def begin(self, threads: ThreadPoolExecutor, positions: np.ndarray) -> list[Future[_Shown]]:
        """Begin to read the images at these positions."""
        return [
            threads.submit(part.read, part.samples[part.rows[position - first]])
            for position, number in zip(positions, self._part_of(positions), strict=True)
            for part, first in [(self._parts[number], self._first[number])]
        ]

    def features(
        self, positions: np.ndarray, pictures: Sequence[np.ndarray]
    ) -> dict[FeatureSource, tuple[str, Rows]]:
        """Return each source's dtype and features of the images at these positions."""
        computed = self._computed(positions, pictures)
        return {source: ("float32", Rows((computed[source.layer],))) for source in self.sources}

    def _computed(
        self, positions: np.ndarray, pictures: Sequence[np.ndarray]
    ) -> Mapping[str, Tensor]:
        """(N, *shape of the layer) float32 on the backbone's device, by layer."""
        places: dict[Backbone, list[int]] = {}
        for place, number in enumerate(self._part_of(positions)):
            places.setdefault(self._parts[number].backbone, []).append(place)
        pieces: dict[str, list[tuple[np.ndarray, Tensor]]] = {name: [] for name in self._layers}
        for backbone, own in places.items():
            for first in range(0, len(own), PICTURES_AT_ONCE):
                some = own[first : first + PICTURES_AT_ONCE]
                batch = torch.from_numpy(np.stack([pictures[place] for place in some]))
                shown = to_device(batch, backbone.device).permute(0, 3, 1, 2)
                for layer, values in backbone.features(shown, self._layers).items():
                    pieces[layer].append((np.asarray(some), values))
        return {layer: in_place(some) for layer, some in pieces.items()}


def _reader(store: Store, backbone: Backbone) -> Callable[[Sample], _Shown]:
    """Return a reader of a store's samples that reads as its extraction did.

    Raises `StoreError` when its images are not here.
    """
    recorded = str(store.provenance.get("root", ""))
    root = Path(recorded)
    if not recorded or not root.is_dir():
        found = (
            f"was made from the images in {recorded}, which is not here"
            if recorded
            else "does not say where its images are"
        )
        raise StoreError(
            f"{store.location} {found}; `uncached=True` reads them again: bring them back, or "
            "leave it out"
        )
    read = SampleReader(
        root=root,
        view=view_named(store.identity.view),
        fake_is_white=store.fake_is_white,
        preprocessing=backbone.preprocessing,
        # Only what could be read then is fed, whatever the limit was.
        max_megapixels=float("inf"),
    )

    def shown(sample: Sample) -> _Shown:
        found: ReadSample | str = read(sample)
        if isinstance(found, str):
            raise StoreError(
                f"{root / sample.image} could be read when {store.location} was made, and cannot "
                f"be now ({found}); train on the machine that made it, or leave out `uncached`"
            )
        return found.picture, found.target

    return shown
