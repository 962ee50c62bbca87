"""Evaluated images with their truth and map, small enough to be shown."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from declip_pipeline.datasets.contents import decodable
from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.tiles import image_ids, whole_images
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.evaluation.evaluated_source import open_evaluated
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.tiles import Window
from declip_pipeline.store.reader import Store

SIDE = 128
"""Side in pixels of a store's thumbnail."""

TILED_SIDE = 320
"""Longest side in pixels of an image that is put together of the thumbnails of its tiles."""

BATCH_SIZE = 64

StoreOf = Callable[[str], Store]
"""Returns an open store by its location."""

Size = tuple[int, int]
"""Height and width in pixels."""


class ShownImage(NamedTuple):
    """Image (h, w, 3) uint8, truth (h, w) bool, and map (h, w) float32 in [0, 1]."""

    image: np.ndarray
    truth: np.ndarray
    heat: np.ndarray


def rows_by_iou(evaluation: Evaluation, generator: str) -> list[dict[str, Any]]:
    """Return the rows of a generator's images that have a fake pixel, worst first."""
    rows = evaluation.of(generator).table.to_pylist()
    rows = [row for row in rows if row["has_fake"] and row["generator"] == generator]
    return sorted(rows, key=lambda row: (row["iou"], row["id"]))


def shown_images(
    evaluation: Evaluation,
    location: str,
    ids: Collection[str],
    store_of: StoreOf,
    *,
    device: torch.device,
    longest: int | None = None,
) -> Iterator[tuple[str, Size, ShownImage]]:
    """Yield images of a store or dataset with the maps of what was evaluated on it.

    Args:
        evaluation: Evaluation of a run, an ensemble, or maps of another tool.
        location: The store, or the dataset.
        ids: Ids of evaluated images.
        store_of: Opens the store, and those beside it.
        device: Where to compute.
        longest: Longest side in pixels. None takes the store's thumbnails, which are square, and
            reads no image file of a store. Otherwise images come from their files, and from the
            thumbnails where a file is not there any more.

    Yields:
        The image's id, its own size, and what is shown of it; in the store's order.

    Raises:
        DeclipError: A store, a run or a map that was evaluated is not there any more, or damaged.
    """
    own = evaluation.on(location)
    (about,) = own.stores
    images = store_of(location) if about.images is None else about.images
    beside = [store_of(place) for place in dict.fromkeys(about.inputs) if place != location]
    opened = open_evaluated(own, images, beside)
    wanted = set(ids)
    names = image_ids(images.samples)
    rows = np.array([row for row, name in enumerate(names) if name in wanted], np.int64)
    whole, image_of = whole_images(images.samples.take(rows))
    whole_ids = whole.ids
    for number, heat, mask in opened.maps(images, rows, device=device, batch_size=BATCH_SIZE):
        height, width = mask.shape
        shown_size = _shown_size(images, (height, width), longest)
        own_rows = rows[image_of == number]
        from_file = longest is not None
        image = _image(images, own_rows, (height, width), shown_size, from_file=from_file)
        wanted.discard(whole_ids[number])
        yield whole_ids[number], (height, width), _shown(image, mask, heat, shown_size)
    if wanted:
        raise InputError(
            f"{evaluation.run.name} has no map of {min(wanted)} any more, which was evaluated"
        )


def _shown(image: Image.Image, mask: np.ndarray, heat: np.ndarray, size: Size) -> ShownImage:
    truth = _resized(Image.fromarray(mask.astype(np.uint8) * 255), size)
    fitted = _resized(Image.fromarray(heat.astype(np.float32)), size)
    return ShownImage(_resized(image, size), truth >= 128, fitted.clip(0, 1))


def _resized(picture: Image.Image, size: Size) -> np.ndarray:
    height, width = size
    if picture.size == (width, height):
        return np.asarray(picture)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _shown_size(images: LabelledImages, size: Size, longest: int | None) -> Size:
    if longest is None and not images.samples.are_tiles:
        return SIDE, SIDE
    height, width = size
    scale = min(1.0, (longest or TILED_SIDE) / max(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _image(
    images: LabelledImages, rows: np.ndarray, size: Size, shown_size: Size, *, from_file: bool
) -> Image.Image:
    """Return an image of the rows of its tiles, or of its row.

    Raises `InputError` where there is neither a thumbnail nor a file.
    """
    thumbnails = None if from_file else images.read_thumbnails(rows)
    if thumbnails is None:
        found = _from_file(images, int(rows[0]), size)
        if found is not None:
            return found
        thumbnails = images.read_thumbnails(rows)
    if thumbnails is None:
        name = images.samples[int(rows[0])].image
        raise InputError(f"{name} of {images.location} is not there any more, or another image")
    if not images.samples.are_tiles:
        return Image.fromarray(thumbnails[0])
    return _put_together(thumbnails, images.samples.take(rows).places, size, shown_size)


def _put_together(
    thumbnails: np.ndarray, places: np.ndarray, size: Size, shown_size: Size
) -> Image.Image:
    """Return an image made of the thumbnails of its tiles."""
    (height, width), (shown_height, shown_width) = size, shown_size
    across, down = shown_width / width, shown_height / height
    picture = Image.new("RGB", (shown_width, shown_height))
    for thumbnail, place in zip(thumbnails, places.tolist(), strict=True):
        window = Window(*place)
        left, top = round(window.left * across), round(window.top * down)
        right = round((window.left + window.width) * across)
        bottom = round((window.top + window.height) * down)
        fitted = Image.fromarray(thumbnail).resize((max(1, right - left), max(1, bottom - top)))
        picture.paste(fitted, (left, top))
    return picture


def _from_file(images: LabelledImages, row: int, size: Size) -> Image.Image | None:
    """Return the image of a row from its file; None where it is gone."""
    if images.root is None:
        return None
    try:
        found = decode_image(decodable(images.root, str(images.samples[row].image)))
    except (DeclipError, OSError):
        return None
    # Another image may lie there by now.
    return Image.fromarray(found) if found.shape[:2] == size else None
