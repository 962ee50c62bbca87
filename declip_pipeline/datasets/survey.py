"""A look at every file of a data set: sizes, shares of fake pixels, and what cannot be read."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.manifest import Manifest, Sample
from declip_pipeline.errors import ImageError

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Group:
    """The pictures of one split of one generator of one source."""

    source: str
    generator: str
    split: str

    def __str__(self) -> str:
        return f"{self.source} {self.generator} {self.split}"


@dataclass
class GroupFacts:
    """What was found of a group; `fake_shares` holds the share of fake pixels, 0..1, of each mask
    that could be read."""

    pictures: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    fake_shares: list[float] = field(default_factory=list)

    @property
    def mean_fake_share(self) -> float | None:
        """The mean over masks, 0..1; None where there are none."""
        return float(np.mean(self.fake_shares)) if self.fake_shares else None


@dataclass(frozen=True)
class Survey:
    """What was found of all groups, and files that are not as they should be, by path.

    `unreadable` gives the reason; `other_sizes` the picture's size and the mask's.
    """

    groups: dict[Group, GroupFacts]
    unreadable: dict[str, str]
    other_sizes: dict[str, tuple[Size, Size]]


def group_of(sample: Sample) -> Group:
    """The group that a sample belongs to."""
    return Group(sample.source, sample.generator, sample.split)


def survey_dataset(
    manifest: Manifest,
    *,
    read_size: Callable[[Path], Size],
    read_mask: Callable[[Path], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Read the size of every picture, and every mask.

    `read_size` gives (height, width) in pixels, `read_mask` HW bool, True = fake, in the
    manifest's polarity; either raises `ImageError` with the reason. `progress` is told samples
    done and in all.
    """

    def look(sample: Sample) -> tuple[Size | None, Size | None, float, dict[str, str]]:
        reasons: dict[str, str] = {}
        size, mask_size, share = None, None, 0.0
        try:
            size = read_size(manifest.root / sample.image)
        except ImageError as error:
            reasons[sample.image] = str(error)
        if sample.mask is not None:
            try:
                mask = read_mask(manifest.root / sample.mask)
                mask_size, share = mask.shape, float(mask.mean())
            except ImageError as error:
                reasons[sample.mask] = str(error)
        return size, mask_size, share, reasons

    survey = Survey({}, {}, {})
    with ThreadPoolExecutor() as threads:
        found = zip(manifest.samples, threads.map(look, manifest.samples), strict=True)
        for done, (sample, (size, mask_size, share, reasons)) in enumerate(found, start=1):
            facts = survey.groups.setdefault(group_of(sample), GroupFacts())
            facts.pictures += 1
            survey.unreadable.update(reasons)
            if size is not None:
                facts.sizes[size] += 1
            if mask_size is not None:
                facts.fake_shares.append(share)
                if size not in (None, mask_size):
                    survey.other_sizes[sample.image] = (size, mask_size)
            if progress is not None:
                progress(done, len(manifest.samples))
    return survey
