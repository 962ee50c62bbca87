"""Scan of a dataset: one reading of every file for its size in pixels and its SHA-256."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.contents import read_content
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import (
    DEFAULT_MAX_MEGAPIXELS,
    TOO_LARGE,
    decode_image,
    image_size,
)
from declip_pipeline.images.masks import read_mask

FILES_AHEAD = 64
"""Files that threads read before the first of them is taken in."""

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Scan:
    """Findings of a reading of every file.

    Args:
        dataset: The dataset with heights, widths and hashes in its samples.
        mask_sizes: Height and width of each sample's mask, (N, 2) int32 in pixels; 0 where it is
            unreadable or there is none.
        fake_shares: Share of fake pixels in each sample's mask, (N,) float64 in [0, 1]; NaN where
            it was not decoded.
        unreadable: Reason by the path of a file that is no image that can be used.
        unusual_masks: Values of each mask that holds others than black and white, and whether they
            are clear, by the mask's path (see `Mask`); of decoded masks alone.
    """

    dataset: Dataset
    mask_sizes: np.ndarray
    fake_shares: np.ndarray
    unreadable: dict[str, str]
    unusual_masks: dict[str, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class _File:
    """Content of one file; size 0 and a reason where it is unreadable."""

    size: tuple[int, int]
    sha256: bytes
    fake_share: float = float("nan")
    reason: str = ""
    values: str = ""
    is_clear: bool = True


def scan_dataset(
    dataset: Dataset,
    *,
    decode: bool = False,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Read every image and mask file once.

    A file that several samples share is read once. Memory beyond the result does not grow with the
    number of files. Without `decode`, sizes are those of headers, and a file that is damaged
    further on is for extraction to report.

    Args:
        dataset: Samples whose sizes and hashes are replaced.
        decode: Decode every image and mask as an extraction does: damaged files are `unreadable`,
            and masks have `fake_shares`.
        max_megapixels: Limit of a decoded image or mask.
        progress: Called with the number of files read and of all.

    Raises:
        InputError: For a file that cannot be opened.
    """
    images, image_codes = _distinct(dataset.samples.table.column("image"))
    masks, mask_codes = _distinct(dataset.samples.table.column("mask"))
    total = len(images) + len(masks)
    read_image = partial(_read_image, dataset.root, decode=decode, max_megapixels=max_megapixels)
    read_mask_file = partial(
        _read_mask,
        dataset.root,
        fake_is_white=dataset.fake_is_white if decode else None,
        max_megapixels=max_megapixels,
    )
    unreadable: dict[str, str] = {}
    unusual: dict[str, tuple[str, bool]] = {}

    def collect(
        read: Callable[[str], _File], paths: list[str], done: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sizes = np.zeros((len(paths), 2), np.int32)
        hashes = np.zeros((len(paths), 32), np.uint8)
        shares = np.full(len(paths), np.nan)
        for place, (path, file) in enumerate(zip(paths, in_threads(read, paths), strict=True)):
            sizes[place], shares[place] = file.size, file.fake_share
            hashes[place] = np.frombuffer(file.sha256, np.uint8)
            if file.reason:
                unreadable[path] = file.reason
            if file.values:
                unusual[path] = (file.values, file.is_clear)
            progress(done + place + 1, total)
        return sizes, hashes, shares

    image_sizes, image_hashes, _ = collect(read_image, images, 0)
    mask_sizes, mask_hashes, fake_shares = collect(read_mask_file, masks, len(images))
    samples = dataset.samples.replace(
        height=image_sizes[image_codes, 0],
        width=image_sizes[image_codes, 1],
        image_sha256=_hash_column(image_hashes, image_codes),
        mask_sha256=_hash_column(mask_hashes, mask_codes),
    )
    # The last row stands for no mask.
    return Scan(
        replace(dataset, samples=samples),
        np.concatenate([mask_sizes, np.zeros((1, 2), np.int32)])[mask_codes],
        np.concatenate([fake_shares, [np.nan]])[mask_codes],
        unreadable,
        unusual,
    )


def in_threads(
    function: Callable[[Item], Value], items: Iterable[Item], *, ahead: int = FILES_AHEAD
) -> Generator[Value, None, None]:
    """Call a function of every item in threads, a thread a core, and yield results in order.

    At most `ahead` calls are under way or wait to be taken, so memory does not grow with the
    number of items. An error of a call is raised here, and no further call begins.
    """
    pending: deque[Future[Value]] = deque()
    with ThreadPoolExecutor() as threads:
        try:
            for item in items:
                pending.append(threads.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _read_image(root: Path, image: str, *, decode: bool, max_megapixels: float) -> _File:
    try:
        content = read_content(root, image)
    except OSError as error:
        # A file that cannot be read now may be read later, and then has a size.
        raise InputError(
            f"{root / image} cannot be opened: {error.strerror}; "
            "bring it back and run the same command again"
        ) from error
    digest = hashlib.sha256(content).digest()
    try:
        if not decode:
            return _File(image_size(content), digest)
        height, width, _ = decode_image(content, max_megapixels=max_megapixels).shape
        return _File((height, width), digest)
    except ImageError as error:
        return _File((0, 0), digest, reason=str(error))
    except MemoryError:
        return _File((0, 0), digest, reason=TOO_LARGE)


def _read_mask(
    root: Path, mask: str, *, fake_is_white: bool | None, max_megapixels: float
) -> _File:
    try:
        content = read_content(root, mask)
    except OSError as error:
        raise InputError(
            f"mask {root / mask}: cannot be opened: {error.strerror}; repair or remove it"
        ) from error
    digest = hashlib.sha256(content).digest()
    try:
        if fake_is_white is None:
            return _File(image_size(content), digest)
        found = read_mask(content, fake_is_white=fake_is_white, max_megapixels=max_megapixels)
        height, width = found.fake.shape
        share = float(found.fake.mean())
        return _File((height, width), digest, share, values=found.values, is_clear=found.is_clear)
    except ImageError as error:
        return _File((0, 0), digest, reason=str(error))
    except MemoryError:
        return _File((0, 0), digest, reason=TOO_LARGE)


def _distinct(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Return the distinct values of a column of text, and each row's index in them, -1 for null."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    codes = np.asarray(pc.fill_null(encoded.indices, -1), np.int64)
    return encoded.dictionary.to_pylist(), codes


def _hash_column(hashes: np.ndarray, codes: np.ndarray) -> pa.Array:
    values = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), len(hashes), [None, pa.py_buffer(hashes)]
    )
    return values.take(pa.array(codes, mask=codes < 0))
