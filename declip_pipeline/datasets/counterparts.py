"""Comparison of fakes with the real images that they were made from: differences must be masked."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.contents import decodable
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import FAKE, REAL, Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.scan import in_threads
from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_image
from declip_pipeline.images.masks import decode_mask

# A region counts as the changed one if its change is so many times that of the rest. Generators
# that send the whole image through an autoencoder change the rest too: the demo set's changes
# the region at least 1.3 times as much.
LEAST_RATIO = 1.2
# Most mean change, of 255, of the region that was left alone: JPEG at quality 75 and autoencoders
# stay far below it, different photographs lie far above.
MOST_CHANGE_OF_REST = 25.0


class Group(NamedTuple):
    """Images of one split of one generator of one source."""

    source: str
    generator: str
    split: str

    def __str__(self) -> str:
        return f"{self.source} {self.generator} {self.split}"


class Verdict(Enum):
    """Result of comparing a fake with its real image: does the mask mark what differs?"""

    AGREES = "agrees"
    FLIPPED = "flipped"
    UNCLEAR = "unclear"
    NO_COUNTERPART = "no counterpart"


class Comparison(NamedTuple):
    """Fake that was compared with its real image, and the verdict on its mask."""

    sample: Sample
    verdict: Verdict


Item = TypeVar("Item")

Compared = Mapping[Group, Sequence[Comparison]]
"""Compared fakes of each group."""


def groups_of(samples: Samples, rows: np.ndarray | None = None) -> dict[Group, np.ndarray]:
    """Return the rows of each group, int64, of all samples or of some rows."""
    found = samples.rows_by(*Group._fields, rows=rows)
    return {Group(*names): rows for names, rows in found.items()}


def compare_with_real(
    dataset: Dataset,
    *,
    most_per_group: int,
    real: Samples | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Group, list[Comparison]]:
    """Compare fakes with the real images of their scene, up to a number in each group.

    Files that cannot be used are left out.

    Args:
        dataset: Its fakes are compared.
        most_per_group: Fakes of each group to compare, spread evenly over it.
        real: Samples of the same root whose real images are compared with. Default: the dataset's.
        max_megapixels: Limit of a decoded image.
        progress: Called with the number of pairs compared and of all.
    """
    samples, others = dataset.samples, dataset.samples if real is None else real
    fakes, reals = samples.rows(label=FAKE), others.rows(label=REAL)
    scenes = samples.table.column("scene").take(pa.array(fakes))
    known = others.table.column("scene").take(pa.array(reals)).combine_chunks()
    place = np.asarray(pc.fill_null(pc.index_in(scenes, known), -1), np.int64)
    real_of = np.full(len(samples), -1)
    real_of[fakes[place >= 0]] = reals[place[place >= 0]]
    rows = [
        row
        for found in groups_of(samples, fakes[place >= 0]).values()
        for row in spread(found.tolist(), most_per_group)
    ]

    def compare(row: int) -> tuple[Sample, Verdict | None]:
        fake = samples[row]
        try:
            return fake, verdict_of(
                decode_image(decodable(dataset.root, fake.image), max_megapixels=max_megapixels),
                decode_image(
                    decodable(dataset.root, others[real_of[row]].image),
                    max_megapixels=max_megapixels,
                ),
                decode_mask(
                    decodable(dataset.root, str(fake.mask)),
                    fake_is_white=dataset.fake_is_white,
                    max_megapixels=max_megapixels,
                ),
            )
        except ImageError:
            return fake, None

    compared: dict[Group, list[Comparison]] = {}
    for done, (fake, verdict) in enumerate(in_threads(compare, rows), start=1):
        if verdict is not None:
            group = Group(fake.source, fake.generator, fake.split)
            compared.setdefault(group, []).append(Comparison(fake, verdict))
        progress(done, len(rows))
    return compared


def verdict_of(fake: np.ndarray, real: np.ndarray, mask: np.ndarray) -> Verdict:
    """Return what a real image says of a mask: which of its two regions changed.

    No counterpart: another size, or both regions differ throughout. Unclear: the mask has one
    region, or neither changed more.

    Args:
        fake: (H, W, 3) uint8 RGB.
        real: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, True = fake.
    """
    if not fake.shape == real.shape == (*mask.shape, 3):
        return Verdict.NO_COUNTERPART
    if mask.all() or not mask.any():
        return Verdict.UNCLEAR
    change = np.abs(fake.astype(np.int16) - real).mean(axis=2)
    inside, outside = float(change[mask].mean()), float(change[~mask].mean())
    if min(inside, outside) > MOST_CHANGE_OF_REST:
        return Verdict.NO_COUNTERPART
    if inside > LEAST_RATIO * outside:
        return Verdict.AGREES
    return Verdict.FLIPPED if outside > LEAST_RATIO * inside else Verdict.UNCLEAR


def votes(comparisons: Sequence[Comparison]) -> tuple[int, int]:
    """Return the number of masks that agree with their real images, and of those that are flipped.

    0 and 0 where most have no counterpart: then names alone coincide, and so would verdicts.
    """
    verdicts = [comparison.verdict for comparison in comparisons]
    if verdicts.count(Verdict.NO_COUNTERPART) * 2 > len(verdicts):
        return 0, 0
    return verdicts.count(Verdict.AGREES), verdicts.count(Verdict.FLIPPED)


def is_flipped(comparisons: Sequence[Comparison]) -> bool:
    """Return whether a group's masks are of the opposite polarity: more are flipped than agree."""
    agreeing, flipped = votes(comparisons)
    return flipped > agreeing


def polarity_problems(dataset: Dataset, compared: Compared) -> list[str]:
    """Return one line if all masks are of the opposite polarity, else one for each such group."""
    decided = [group for group, found in compared.items() if sum(votes(found))]
    wrong = [group for group in decided if is_flipped(compared[group])]
    if wrong and len(wrong) == len(decided):
        colour, other = ("white", "black") if dataset.fake_is_white else ("black", "white")
        agreeing, flipped = votes([one for group in wrong for one in compared[group]])
        return [
            f"masks of the opposite polarity: {colour} is read as fake, but in {flipped} of "
            f"{agreeing + flipped} compared with real images what differs is {other}; pass "
            f"`fake_is_white={not dataset.fake_is_white}`"
        ]
    return [
        f"masks of the opposite polarity in {group}: in {flipped} of {agreeing + flipped} compared "
        "with real images what differs is called real; invert these masks"
        for group, (agreeing, flipped) in ((group, votes(compared[group])) for group in wrong)
    ]


def spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most so many of the items, spread evenly over them."""
    if len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]
