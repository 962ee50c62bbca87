"""Images of a store with their truth and the map of a run, small enough to be shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits
from declip_pipeline.errors import DeclipError
from declip_pipeline.evaluation.joined_scores import joined_maps
from declip_pipeline.evaluation.scores import logits_of
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.tiles import Window
from declip_pipeline.store.reader import Store

SIDE = 128
"""Side in pixels of a store's thumbnail."""

TILED_SIDE = 320
"""Longest side in pixels of an image that is put together of the thumbnails of its tiles."""

Size = tuple[int, int]
"""Width and height in pixels."""


class ShownImage(NamedTuple):
    """Image (h, w, 3) uint8, truth (h, w) bool, and map (h, w) float32 in [0, 1]."""

    image: np.ndarray
    truth: np.ndarray
    heat: np.ndarray


def shown_images(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    longest: int | None = None,
    batch_size: int = 64,
) -> Iterator[ShownImage]:
    """Yield images in the order of their rows; of tiles, in that of `whole_images`.

    Args:
        decoders: The decoders, on `device`.
        store: Store with thumbnails and masks.
        sources: Layers that the decoders take, of the store or of stores beside it.
        rows: Rows of the images, or all tiles of each, int64.
        device: Where to compute.
        longest: Longest side in pixels. None reads no image file: images are the store's
            thumbnails, which are square. Otherwise images come from their files, and from the
            thumbnails where a file is not there any more.
        batch_size: Rows a step.
    """
    if store.tiling is not None:
        yield from _of_tiles(decoders, store, sources, rows, device, longest, batch_size)
        return
    for positions, logits in logits_of(
        decoders, store, sources, rows, "labels", device, batch_size
    ):
        own = rows[positions]
        thumbnails, targets = store.read_thumbnails(own), store.read_targets(own)
        maps = torch.sigmoid(mean_logits(logits).float()).cpu().numpy()
        for row, small, target, heat in zip(own, thumbnails, targets, maps, strict=True):
            if longest is None:
                yield _shown(Image.fromarray(small), target, heat, (SIDE, SIDE))
                continue
            size = _size(store.samples.sizes[row], longest)
            image = _from_file(store, int(row)) or Image.fromarray(small)
            mask = store.read_masks(np.array([row]))[0].astype(np.uint8) * 255
            yield _shown(image, mask, heat, size)


def _of_tiles(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    device: torch.device,
    longest: int | None,
    batch_size: int,
) -> Iterator[ShownImage]:
    samples = store.samples.take(rows)
    images, image_of = whole_images(samples)
    joined = joined_maps(decoders, store, sources, rows, device=device, batch_size=batch_size)
    for number, (heat, mask) in enumerate(joined):
        size = _size(images.sizes[number], longest or TILED_SIDE)
        members = np.flatnonzero(image_of == number)
        image = None if longest is None else _from_file(store, int(rows[members[0]]))
        if image is None:
            windows = [Window(*place) for place in samples.places[members].tolist()]
            thumbnails = store.read_thumbnails(rows[members])
            image = _put_together(thumbnails, windows, images.sizes[number], size)
        yield _shown(image, mask.astype(np.uint8) * 255, heat, size)


def _put_together(
    thumbnails: np.ndarray, windows: Sequence[Window], image_size: np.ndarray, size: Size
) -> Image.Image:
    """Return an image made of the thumbnails of its tiles."""
    height, width = image_size.tolist()
    across, down = size[0] / width, size[1] / height
    picture = Image.new("RGB", size)
    for thumbnail, window in zip(thumbnails, windows, strict=True):
        left, top = round(window.left * across), round(window.top * down)
        right = round((window.left + window.width) * across)
        bottom = round((window.top + window.height) * down)
        fitted = Image.fromarray(thumbnail).resize((max(1, right - left), max(1, bottom - top)))
        picture.paste(fitted, (left, top))
    return picture


def _shown(image: Image.Image, mask: np.ndarray, heat: np.ndarray, size: Size) -> ShownImage:
    truth = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)) >= 128
    fitted = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    shown = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    return ShownImage(np.asarray(shown), truth, np.asarray(fitted).clip(0, 1))


def _size(sizes: np.ndarray, longest: int) -> Size:
    height, width = sizes.tolist()
    scale = min(1.0, longest / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _from_file(store: Store, row: int) -> Image.Image | None:
    """Return the image of a row from where it lay at the extraction; None where it is gone."""
    root = store.provenance.get("root")
    if not isinstance(root, str):
        return None
    try:
        found = decode_image(Path(root) / str(store.samples[row].image))
    except (DeclipError, OSError):
        return None
    # Another image may lie there by now.
    return Image.fromarray(found) if found.shape[:2] == tuple(store.samples.sizes[row]) else None
