"""Checks of what would spoil a store: masks, by generator and split, and images that are twice."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from declip_pipeline.datasets.contents import are_whole, decodable
from declip_pipeline.datasets.counterparts import Group, groups_of, spread
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import FAKE, Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.scan import Scan, in_threads
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.masks import Mask, read_mask

MASKS_PER_GROUP = 50
"""Masks of each generator and split that are read before an extraction."""

Size = tuple[int, int]
"""Height and width in pixels."""


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


@dataclass
class GroupMasks:
    """Masks of one group that were read.

    Args:
        masks: Number of the group's masks.
        shares: Share of fake pixels, in [0, 1], of each mask that could be read.
        unusual: Values of each mask that holds others than black and white, and whether they are
            clear, by the mask's path; see `Mask`.
        is_whole: Every image of the group is generated as a whole, so its masks are of one value.
    """

    masks: int
    shares: list[float] = field(default_factory=list)
    unusual: dict[str, tuple[str, bool]] = field(default_factory=dict)
    is_whole: bool = False

    @property
    def has_both(self) -> bool:
        """Return whether a mask has fake and real pixels."""
        return any(0 < share < 1 for share in self.shares)


def check_usable(scan: Scan) -> None:
    """Check that each group has a mask that can be read and has its image's size.

    Any other image or mask that cannot be used passes: that is for extraction to report, image by
    image.

    Raises:
        InputError: Naming the first group without such a mask, and why its first mask is none.
    """
    samples = scan.dataset.samples
    fakes = samples.rows(label=FAKE)
    sizes = samples.sizes
    # Of an unreadable image nothing can be said, and it is no fault of its mask.
    fits = scan.mask_sizes.any(axis=1) & (
        (sizes == scan.mask_sizes).all(axis=1) | ~sizes.any(axis=1)
    )
    for group, rows in groups_of(samples, fakes).items():
        if fits[rows].any():
            continue
        sample, row = samples[int(rows[0])], int(rows[0])
        reason = (
            scan.unreadable.get(str(sample.mask))
            if not scan.mask_sizes[row].any()
            else other_size_text(sizes[row].tolist(), scan.mask_sizes[row].tolist())
        )
        raise InputError(
            f"{group}: none of its {len(rows)} masks can be used; mask "
            f"{scan.dataset.root / str(sample.mask)}: {reason}; repair the masks, or choose "
            "others with `generators` and `splits`"
        )


def read_some_masks(
    dataset: Dataset,
    *,
    most_per_group: int,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> dict[Group, GroupMasks]:
    """Read masks of every group, spread evenly over it; unreadable ones are left out.

    Where none of these has both fake and real pixels, the others are read until one has. Masks of
    images that are generated as a whole are not read.
    """
    samples = dataset.samples

    def read(row: int) -> tuple[str, Mask | None]:
        mask = str(samples[row].mask)
        try:
            return mask, read_mask(
                decodable(dataset.root, mask),
                fake_is_white=dataset.fake_is_white,
                max_megapixels=max_megapixels,
            )
        except ImageError:
            return mask, None

    found = {}
    whole = are_whole(samples.table.column("mask"))
    for group, rows in groups_of(samples, samples.rows(label=FAKE)).items():
        some = list(spread(rows.tolist(), most_per_group))
        masks = found[group] = GroupMasks(len(rows), is_whole=bool(whole[rows].all()))
        if masks.is_whole:
            continue
        with closing(in_threads(read, some)) as readings:
            for path, mask in readings:
                _add(masks, path, mask)
        if not masks.has_both:
            others = np.setdiff1d(rows, some, assume_unique=True)
            with closing(in_threads(read, others.tolist())) as readings:
                for path, mask in readings:
                    _add(masks, path, mask)
                    if masks.has_both:
                        break
    return found


def check_masks(
    found: Mapping[Group, GroupMasks], *, fake_is_white: bool, polarity_is_given: bool
) -> list[str]:
    """Check that masks have both fake and real pixels, and values that say which are fake.

    Args:
        found: Masks of every group, as `read_some_masks` returns them.
        fake_is_white: Whether white pixels were read as fake.
        polarity_is_given: Whether a user said so; unclear values are then read so.

    Returns:
        A line for each further thing that is unusual.

    Raises:
        InputError: No mask has both; a group's masks have no fake pixel; or more than half of a
            group's masks hold unclear values and `polarity_is_given` is False.
    """
    read = {group: masks for group, masks in found.items() if masks.shares}
    if read and not any(masks.has_both for masks in read.values()):
        shares = [share for masks in read.values() for share in masks.shares]
        raise InputError(_without_both(shares, fake_is_white))
    lines = []
    for group, masks in read.items():
        if not any(masks.shares):
            raise InputError(f"{group}: {_without_both(masks.shares, fake_is_white)}")
        if not masks.has_both:
            lines.append(f"problem: {group}: {_without_both(masks.shares, fake_is_white)}")
        problems, notes = unusual_masks_lines(
            group, masks, fake_is_white=fake_is_white, polarity_is_given=polarity_is_given
        )
        unclear = sum(not is_clear for _, is_clear in masks.unusual.values())
        if unclear * 2 > len(masks.shares) and not polarity_is_given:
            raise InputError(problems[0])
        lines += [f"problem: {problem}" for problem in problems]
        lines += [f"note: {note}" for note in notes]
    return lines


def unusual_masks_lines(
    group: Group, masks: GroupMasks, *, fake_is_white: bool, polarity_is_given: bool
) -> tuple[list[str], list[str]]:
    """Return a problem on masks whose values are unclear, and a note on other unusual masks."""
    problems: list[str] = []
    notes: list[str] = []
    for lines, wanted in ((problems, False), (notes, True)):
        paths = sorted(path for path, (_, is_clear) in masks.unusual.items() if is_clear is wanted)
        if not paths:
            continue
        count = f"{len(paths)} of {len(masks.shares)} masks that were read"
        values = masks.unusual[paths[0]][0]
        if wanted:
            how = "of two values the larger is read as white"
        else:
            how = "grey values from 128 of 255 (colours by their luma) are read as white"
            if not polarity_is_given:
                how += (
                    "; save the masks with two values, or pass "
                    f"`fake_is_white={fake_is_white}` if this reading is right"
                )
        lines.append(f"{group}: {count} hold {values}, such as {paths[0]}; {how}")
    return problems, notes


def other_size_text(image: Sequence[int], mask: Sequence[int]) -> str:
    """Return the reason why a mask of another size than its image cannot be used."""
    return f"has {size_text(mask)} pixels, its image {size_text(image)}"


def _add(masks: GroupMasks, path: str, mask: Mask | None) -> None:
    if mask is not None:
        masks.shares.append(float(mask.fake.mean()))
        if mask.values:
            masks.unusual[path] = (mask.values, mask.is_clear)


def _without_both(shares: Sequence[float], fake_is_white: bool) -> str:
    fake = sum(share > 0 for share in shares)
    real = len(shares) - fake
    if not fake:
        found = f"all {real} masks are entirely real (no fake pixel)"
    elif not real:
        found = f"all {fake} masks are entirely fake (no real pixel)"
    else:
        found = f"no mask has both: {real} are entirely real and {fake} entirely fake"
    return (
        f"{found}, reading {'white' if fake_is_white else 'black'} as fake; expected masks that "
        "mark a part of their image"
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


def size_text(size: Sequence[int]) -> str:
    """Return a size (height, width) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
