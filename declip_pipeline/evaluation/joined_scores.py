"""Images that are stored in tiles: their joined maps, and scores of all tiles together."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits
from declip_pipeline.evaluation.scores import (
    Progress,
    image_scores,
    logits_of,
    score_names,
)
from declip_pipeline.feeding.feed import TargetKind
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.tiles import Window, joined_map
from declip_pipeline.store.reader import Store


def joined_maps(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each image's joined map, (H, W) float32 in [0, 1], and its mask, (H, W) bool.

    Overlapping maps are joined by `MapJoiner`, after the sigmoid; masks are joined from the tiles'.
    One image's map and mask exist at a time, 5 bytes a pixel.

    Args:
        decoders: The decoders, on `device`.
        store: Store with the masks.
        sources: Layers that the decoders take, of the store or of stores beside it.
        rows: All tiles of the images, int64.
        device: Where to compute.
        batch_size: Tiles a step.
        progress: Called with the number of tiles done and of all.

    Yields:
        In the order of `whole_images`.
    """
    samples = store.samples.take(rows)
    images, image_of = whole_images(samples)
    windows = [Window(*place) for place in samples.places.tolist()]
    tiles = _Tiles(decoders, store, sources, rows, image_of, windows, device, batch_size, progress)
    for image, (members, logits) in enumerate(tiles.by_image("masks")):
        height, width = images.sizes[image].tolist()
        maps = (torch.sigmoid(mean_logits(own)).cpu().numpy() for own in logits)
        own_windows = [windows[member] for member in members]
        joined = joined_map(own_windows, maps, image_size=(height, width))
        yield joined, store.image_mask(rows[members])


def detect_joined(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Score images of a store of tiles from the maps of all their tiles together.

    Where tiles overlap, a pixel counts in each of them. Arguments as in `joined_maps`.

    Returns:
        A score for each of `score_names`, (images,) float64 in [0, 1], higher = more likely fake.
    """
    samples = store.samples.take(rows)
    images, image_of = whole_images(samples)
    windows = [Window(*place) for place in samples.places.tolist()]
    found = {name: np.zeros(len(images)) for name in score_names(decoders)}
    tiles = _Tiles(decoders, store, sources, rows, image_of, windows, device, batch_size, progress)
    for image, (_, logits) in enumerate(tiles.by_image("labels")):
        # One high map: scores do not depend on where a pixel lies.
        for name, value in image_scores(decoders, torch.cat(list(logits), 1)[:, None]).items():
            found[name][image] = value.item()
    return found


class _Tiles:
    """Decoders' maps of tiles, image by image."""

    def __init__(
        self,
        decoders: AveragedDecoders,
        store: Store,
        sources: Sequence[FeatureSource],
        rows: np.ndarray,
        image_of: np.ndarray,
        windows: Sequence[Window],
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self._of = (decoders, store, sources, rows)
        self._how = (device, batch_size)
        self._image_of = image_of
        # Row by row, as `MapJoiner` takes them.
        places = np.asarray(windows)
        self._order = np.lexsort((places[:, 1], places[:, 0], image_of))
        self._progress = progress

    def by_image(self, targets: TargetKind) -> Iterator[tuple[list[int], Iterator[torch.Tensor]]]:
        """Yield the positions of each image's tiles, and their logits (decoders, h, w) one by one.

        The maps of one image must be taken before the next image is.
        """
        device, batch_size = self._how
        batches = logits_of(*self._of, targets, device, batch_size, self._order)
        maps = (one for _, logits in batches for one in logits.unbind(1))
        done = 0
        for count in np.bincount(self._image_of).tolist():
            yield self._order[done : done + count].tolist(), islice(maps, count)
            done += count
            self._progress(done, len(self._order))
