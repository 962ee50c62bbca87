"""One sample from its files to what a store holds of it, besides the features."""

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.datasets.checks import other_size_text
from declip_pipeline.datasets.contents import read_content
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import ImageError, StoreError
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.images.decode import TOO_LARGE, decode_image
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.resize import resize_image, resize_mask, thumbnail
from declip_pipeline.images.views import View
from declip_pipeline.store.format import TARGET_SIZE, THUMBNAIL_SIZE

KEPT_BYTES = 256 * 2**20
"""Bytes of decoded images that are kept for their next tiles, or those of the last one alone."""


@dataclass(frozen=True)
class ReadSample:
    """A decoded sample.

    `picture` HWC uint8 RGB in its view, at the backbone's input size; `mask` HW bool at the own
    size of the image or tile, True = fake; `target` (256, 256) uint8, 255 = fake; `thumbnail`
    (128, 128, 3) uint8 RGB.
    """

    picture: np.ndarray
    mask: np.ndarray
    target: np.ndarray
    thumbnail: np.ndarray


@dataclass(frozen=True)
class _Decoded:
    """A whole image, HWC uint8 RGB: as it is, and in its view; with its mask, HW bool."""

    full: np.ndarray
    rendered: np.ndarray
    mask: np.ndarray

    @property
    def bytes(self) -> int:
        rendered = 0 if self.rendered is self.full else self.rendered.nbytes
        return self.full.nbytes + rendered + self.mask.nbytes


class SampleReader:
    """Reads the samples of one store.

    An image is decoded once for tiles that are asked for one after another, by several threads.
    """

    def __init__(
        self,
        *,
        root: Path,
        view: View,
        fake_is_white: bool,
        preprocessing: Preprocessing,
        max_megapixels: float,
    ) -> None:
        self._root = root
        self._view = view
        self._fake_is_white = fake_is_white
        self._preprocessing = preprocessing
        self._max_megapixels = max_megapixels
        self._lock = Lock()
        # The last one asked for comes last.
        self._kept: dict[tuple[str, str | None], Future[_Decoded | str]] = {}

    def __call__(self, sample: Sample) -> ReadSample | str:
        """Read one sample, or say in one line why it cannot be used.

        Raises `StoreError` when a file's content is another by now than when the dataset was
        scanned: the store's identity would be a lie.
        """
        try:
            window = sample.window
            decoded = self._decoded(sample) if window is None else self._shared(sample)
            if isinstance(decoded, str):
                return decoded
            if window is None:
                return self._read(decoded.full, decoded.rendered, decoded.mask)
            # A copy: the whole image's mask is not to live as long as its tiles' do.
            mask = window.of(decoded.mask).copy()
            return self._read(window.of(decoded.full), window.of(decoded.rendered), mask)
        except MemoryError:
            return TOO_LARGE

    def _read(self, full: np.ndarray, rendered: np.ndarray, mask: np.ndarray) -> ReadSample:
        wanted = self._preprocessing
        return ReadSample(
            picture=resize_image(rendered, wanted.height, wanted.width, wanted.interpolation),
            mask=mask,
            target=resize_mask(mask, TARGET_SIZE, TARGET_SIZE),
            thumbnail=thumbnail(full, THUMBNAIL_SIZE),
        )

    def _shared(self, sample: Sample) -> _Decoded | str:
        """Decode an image unless it is kept, or wait for the thread that does."""
        key = (sample.image, sample.mask)
        with self._lock:
            found = self._kept.pop(key, None)
            decoding = found is None
            future: Future[_Decoded | str] = Future() if found is None else found
            self._kept[key] = future
        if decoding:
            try:
                future.set_result(self._decoded(sample))
            except BaseException as error:
                future.set_exception(error)
            self._drop_old()
        return future.result()

    def _drop_old(self) -> None:
        with self._lock:
            room = KEPT_BYTES
            for key, future in reversed(list(self._kept.items())):
                if future.done() and future.exception() is None:
                    decoded = future.result()
                    room -= 0 if isinstance(decoded, str) else decoded.bytes
                if room < 0 and key != next(reversed(self._kept)):
                    del self._kept[key]

    def _decoded(self, sample: Sample) -> _Decoded | str:
        content = _content(self._root, sample.image, sample.image_sha256)
        mask_content = None
        if sample.mask is not None:
            mask_content = _content(self._root, sample.mask, sample.mask_sha256)
        try:
            full = decode_image(content, max_megapixels=self._max_megapixels)
            mask = np.zeros(full.shape[:2], bool)
            if mask_content is not None:
                try:
                    mask = decode_mask(
                        mask_content,
                        fake_is_white=self._fake_is_white,
                        max_megapixels=self._max_megapixels,
                    )
                except ImageError as error:
                    return f"its mask {sample.mask}: {error}"
                if mask.shape != full.shape[:2]:
                    other = other_size_text(full.shape[:2], mask.shape)
                    return f"its mask {sample.mask} {other}"
            rendered = self._view.render(full, sample.image_sha256 or "")
            return _Decoded(full, rendered, mask)
        except ImageError as error:
            return str(error)
        except MemoryError:
            return TOO_LARGE


def _content(root: Path, relative: str, expected: str | None) -> bytes:
    try:
        content = read_content(root, relative)
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
