"""Checks of what would spoil a store: sizes of masks, their polarity, and images that are twice."""

from dataclasses import dataclass

import numpy as np

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.samples import Sample, Samples
from declip_pipeline.datasets.scan import Scan
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_mask


@dataclass(frozen=True)
class Duplicates:
    """Sets of samples whose images are byte for byte the same, sorted; a set is in one list only.

    Args:
        across_labels: Fake here and real there.
        across_splits: Learned from and tested on.
        within_split: Counted twice.
    """

    across_labels: tuple[tuple[Sample, ...], ...]
    across_splits: tuple[tuple[Sample, ...], ...]
    within_split: tuple[tuple[Sample, ...], ...]


def check_sizes(scan: Scan) -> None:
    """Check that every mask can be read and has its image's size.

    An unreadable image passes: that is for extraction to report, image by image.

    Raises:
        InputError: Naming the first unreadable mask, or the first mask of another size with both
            sizes and the count.
    """
    dataset = scan.dataset
    sizes = dataset.samples.sizes
    masked = np.asarray(dataset.samples.table.column("mask").is_valid())
    for row in np.flatnonzero(masked & ~scan.mask_sizes.any(axis=1)).tolist():
        mask = str(dataset.samples[row].mask)
        if mask in scan.unreadable:
            raise InputError(
                f"mask {dataset.root / mask}: {scan.unreadable[mask]}; repair or remove it"
            )
    rows = np.flatnonzero(masked & sizes.any(axis=1) & (sizes != scan.mask_sizes).any(axis=1))
    if len(rows):
        sample = dataset.samples[rows[0]]
        raise InputError(
            f"{sample.image} has {size_text(sizes[rows[0]])} pixels and its mask {sample.mask} "
            f"{size_text(scan.mask_sizes[rows[0]])} ({len(rows)} of {len(sizes)} samples differ "
            "so); a mask must have the size of its image, resize one of them"
        )


def check_polarity(dataset: Dataset, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> None:
    """Check that some mask holds both fake and real pixels; decodes masks until one does.

    An unreadable mask says nothing, and is for extraction to report.

    Raises:
        InputError: With a hint at the polarity when no readable mask has both.
    """
    fake, real = 0, 0
    for mask in dataset.samples.table.column("mask"):
        if not mask.is_valid:
            continue
        try:
            pixels = decode_mask(
                dataset.root / mask.as_py(),
                fake_is_white=dataset.fake_is_white,
                max_megapixels=max_megapixels,
            )
        except ImageError:
            continue
        if pixels.any() and not pixels.all():
            return
        fake, real = (fake + 1, real) if pixels.any() else (fake, real + 1)
    if not fake + real:
        return
    if not fake:
        found = f"all {real} masks are entirely real (no fake pixel)"
    elif not real:
        found = f"all {fake} masks are entirely fake (no real pixel)"
    else:
        found = f"no mask has both: {real} are entirely real and {fake} entirely fake"
    colour, other = ("white", "black") if dataset.fake_is_white else ("black", "white")
    raise InputError(
        f"{found}, reading {colour} as fake and grey values from 128 as white; "
        f"if {other} marks fake pixels here pass `fake_is_white={not dataset.fake_is_white}`"
    )


def find_duplicates(samples: Samples) -> Duplicates:
    """Find images of the same content, by the hashes of their files."""
    hashes = samples.table.column("image_sha256").dictionary_encode().combine_chunks()
    codes = hashes.indices.to_numpy()
    same = np.flatnonzero(np.bincount(codes)[codes] > 1)
    labels, splits, within = [], [], []
    by_content = same[np.argsort(codes[same], kind="stable")]
    ends = np.flatnonzero(np.diff(codes[by_content])) + 1
    for rows in np.split(by_content, ends) if len(same) else ():
        found = tuple(samples.take(rows))
        if len({sample.label for sample in found}) > 1:
            labels.append(found)
        elif len({sample.split for sample in found}) > 1:
            splits.append(found)
        else:
            within.append(found)
    return Duplicates(tuple(labels), tuple(splits), tuple(within))


def size_text(size: "np.ndarray | tuple[int, int]") -> str:
    """Return a size (height, width) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
