"""One sample from its files to what a store holds of it, besides the features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.datasets.checks import other_size_text
from declip_pipeline.datasets.samples import Sample
from declip_pipeline.errors import ImageError, StoreError
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.resize import resize_image, resize_mask, thumbnail
from declip_pipeline.images.views import View
from declip_pipeline.store.format import TARGET_SIZE, THUMBNAIL_SIZE


@dataclass(frozen=True)
class ReadSample:
    """A decoded sample.

    `image` HWC uint8 RGB in its view, at the backbone's input size; `mask` HW bool at the
    image's own size, True = fake; `target` (256, 256) uint8, 255 = fake; `thumbnail`
    (128, 128, 3) uint8 RGB.
    """

    picture: np.ndarray
    mask: np.ndarray
    target: np.ndarray
    thumbnail: np.ndarray


def read_sample(
    sample: Sample,
    *,
    root: Path,
    view: View,
    fake_is_white: bool,
    height: int,
    width: int,
    interpolation: str,
    max_megapixels: float,
) -> ReadSample | str:
    """Read one sample, or say in one line why it cannot be used.

    Raises `StoreError` when a file's content is another by now than when the dataset was scanned:
    the store's identity would be a lie.
    """
    content = _content(root, sample.image, sample.image_sha256)
    mask_content = None if sample.mask is None else _content(root, sample.mask, sample.mask_sha256)
    try:
        full = decode_image(content, max_megapixels=max_megapixels)
        mask = np.zeros(full.shape[:2], bool)
        if mask_content is not None:
            try:
                mask = decode_mask(
                    mask_content, fake_is_white=fake_is_white, max_megapixels=max_megapixels
                )
            except ImageError as error:
                return f"its mask {sample.mask}: {error}"
            if mask.shape != full.shape[:2]:
                other = other_size_text(full.shape[:2], mask.shape)
                return f"its mask {sample.mask} {other}"
        rendered = view.render(full, sample.image_sha256 or "")
        return ReadSample(
            picture=resize_image(rendered, height, width, interpolation),
            mask=mask,
            target=resize_mask(mask, TARGET_SIZE, TARGET_SIZE),
            thumbnail=thumbnail(full, THUMBNAIL_SIZE),
        )
    except ImageError as error:
        return str(error)
    except MemoryError:
        return "does not fit in memory; shrink it"


def sample_reader(
    *,
    root: Path,
    view: View,
    fake_is_white: bool,
    preprocessing: Preprocessing,
    max_megapixels: float,
) -> Callable[[Sample], ReadSample | str]:
    """Return `read_sample` for the samples of one store."""
    return partial(
        read_sample,
        root=root,
        view=view,
        fake_is_white=fake_is_white,
        height=preprocessing.height,
        width=preprocessing.width,
        interpolation=preprocessing.interpolation,
        max_megapixels=max_megapixels,
    )


def _content(root: Path, relative: str, expected: str | None) -> bytes:
    try:
        content = (root / relative).read_bytes()
    except OSError as error:
        raise StoreError(
            f"{root / relative} cannot be read any more ({error.strerror}); "
            "bring it back and run the same command again, it goes on where it stopped"
        ) from error
    if sha256_of_bytes(content) != expected:
        raise StoreError(
            f"{root / relative} has changed since its dataset was first read; bring the former "
            "file back, or run `declip-pipe extract` on the dataset as it is now"
        )
    return content
