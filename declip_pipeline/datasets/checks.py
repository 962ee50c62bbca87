"""Checks of a data set that need its files; how files are read is passed in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.manifest import Manifest, Sample
from declip_pipeline.errors import ImageError, InputError

_Size = tuple[int, int]
_UNREADABLE = (0, 0)


def check_sizes(manifest: Manifest, *, read_size: Callable[[Path], _Size]) -> np.ndarray:
    """Check that every mask has its picture's size, and return the pictures' sizes.

    `read_size` gives (height, width) in pixels of a file, or raises `ImageError`. Returns (N, 2)
    int32 in the order of the samples, 0 where the picture is unreadable: that is for extraction
    to report, picture by picture.

    Raises `InputError` naming an unreadable mask, or the first mask of another size with both
    sizes and the count.
    """

    def sizes_of(sample: Sample) -> tuple[_Size, _Size]:
        try:
            image = read_size(manifest.root / sample.image)
        except ImageError as error:
            # A file that cannot be read now may be read later, and then has a size.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise InputError(
                    f"{manifest.root / sample.image} {error}; "
                    "bring it back and run the same command again"
                ) from error
            image = _UNREADABLE
        if sample.mask is None:
            return image, image
        mask = manifest.root / sample.mask
        try:
            return image, read_size(mask)
        except ImageError as error:
            raise InputError(f"mask {mask}: {error}; repair or remove it") from error

    with ThreadPoolExecutor() as threads:
        sizes = list(threads.map(sizes_of, manifest.samples))
    different = [
        (sample, image, mask)
        for sample, (image, mask) in zip(manifest.samples, sizes, strict=True)
        if image not in (mask, _UNREADABLE)
    ]
    if different:
        sample, image, mask = different[0]
        raise InputError(
            f"{sample.image} has {_shown(image)} pixels and its mask {sample.mask} {_shown(mask)} "
            f"({len(different)} of {len(sizes)} samples differ so); a mask must have the size of "
            "its picture, resize one of them"
        )
    return np.array([image for image, _ in sizes], np.int32).reshape(-1, 2)


def check_polarity(manifest: Manifest, *, read_mask: Callable[[Path], np.ndarray]) -> None:
    """Check that some mask holds both fake and real pixels; reads masks until one does.

    `read_mask` gives HW bool, True = fake, in the manifest's polarity, or raises `ImageError`; an
    unreadable mask says nothing, and is for extraction to report.

    Raises `InputError` with a hint at the polarity when no readable mask does.
    """
    fake, real = 0, 0
    for sample in manifest.samples:
        if sample.mask is None:
            continue
        try:
            mask = read_mask(manifest.root / sample.mask)
        except ImageError:
            continue
        if mask.any() and not mask.all():
            return
        fake, real = (fake + 1, real) if mask.any() else (fake, real + 1)
    if not fake + real:
        return
    if not fake:
        found = f"all {real} masks are entirely real (no fake pixel)"
    elif not real:
        found = f"all {fake} masks are entirely fake (no real pixel)"
    else:
        found = f"no mask has both: {real} are entirely real and {fake} entirely fake"
    colour, other, flag = (
        ("white", "black", "black-is-fake")
        if manifest.fake_is_white
        else ("black", "white", "white-is-fake")
    )
    raise InputError(
        f"{found}, reading {colour} as fake and grey values from 128 as white; "
        f"if {other} marks fake pixels here pass --polarity {flag}"
    )


def _shown(size: _Size) -> str:
    return f"{size[1]}x{size[0]}"
