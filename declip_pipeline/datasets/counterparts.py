"""Fakes beside the real pictures that they were made from: what differs must be called fake."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import numpy as np

from declip_pipeline.datasets.manifest import FAKE, REAL, Manifest, Sample
from declip_pipeline.datasets.survey import Group, group_of
from declip_pipeline.errors import ImageError

# A region counts as the changed one if its change is so many times that of the rest. Generators
# that send the whole picture through an autoencoder change the rest too: the demo set's changes
# the region at least 1.3 times as much.
LEAST_RATIO = 1.2
# Most mean change, of 255, of the region that was left alone: JPEG at quality 75 and autoencoders
# stay far below it, different photographs lie far above.
MOST_CHANGE_OF_REST = 25.0


class Verdict(Enum):
    """What a real picture says of the mask of a fake."""

    AGREES = "agrees"
    FLIPPED = "flipped"
    UNCLEAR = "unclear"
    NO_COUNTERPART = "no counterpart"


@dataclass(frozen=True)
class Comparison:
    """One fake and what its real picture says of its mask."""

    sample: Sample
    verdict: Verdict


Item = TypeVar("Item")

Compared = Mapping[Group, Sequence[Comparison]]
"""The fakes of each group that were compared."""


def compare_with_real(
    manifest: Manifest,
    *,
    scene_of: Callable[[Sample], str],
    read_picture: Callable[[Path], np.ndarray],
    read_mask: Callable[[Path], np.ndarray],
    most_per_group: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Group, list[Comparison]]:
    """Compare fakes with the real pictures of their scene, up to a number in each group.

    `read_picture` gives HWC uint8 RGB, `read_mask` HW bool, True = fake, in the manifest's
    polarity; what cannot be read is left out. The fakes are spread evenly over the group.
    `progress` is told pairs done and in all.
    """
    real_of = {scene_of(sample): sample for sample in manifest.samples if sample.label == REAL}
    pairs_of: dict[Group, list[tuple[Sample, Sample]]] = {}
    for sample in manifest.samples:
        if sample.label == FAKE and scene_of(sample) in real_of:
            pair = sample, real_of[scene_of(sample)]
            pairs_of.setdefault(group_of(sample), []).append(pair)
    pairs = [pair for found in pairs_of.values() for pair in spread(found, most_per_group)]

    def compare(pair: tuple[Sample, Sample]) -> Verdict | None:
        fake, real = pair
        if fake.mask is None:
            return None
        try:
            return verdict_of(
                read_picture(manifest.root / fake.image),
                read_picture(manifest.root / real.image),
                read_mask(manifest.root / fake.mask),
            )
        except ImageError:
            return None

    compared: dict[Group, list[Comparison]] = {}
    with ThreadPoolExecutor() as threads:
        found = zip(pairs, threads.map(compare, pairs), strict=True)
        for done, ((fake, _), verdict) in enumerate(found, start=1):
            if verdict is not None:
                compared.setdefault(group_of(fake), []).append(Comparison(fake, verdict))
            if progress is not None:
                progress(done, len(pairs))
    return compared


def verdict_of(fake: np.ndarray, real: np.ndarray, mask: np.ndarray) -> Verdict:
    """What a real picture says of a mask: which of its two regions changed.

    Pictures are HWC uint8 RGB, the mask HW bool, True = fake. No counterpart: another size, or
    both regions differ throughout. Unclear: the mask has one region, or neither changed more.
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
    """How many masks agree with their real pictures, and how many are flipped.

    None and none where most have no counterpart: then names alone coincide, and so would verdicts.
    """
    verdicts = [comparison.verdict for comparison in comparisons]
    if verdicts.count(Verdict.NO_COUNTERPART) * 2 > len(verdicts):
        return 0, 0
    return verdicts.count(Verdict.AGREES), verdicts.count(Verdict.FLIPPED)


def is_flipped(comparisons: Sequence[Comparison]) -> bool:
    """Whether a group's masks are of the opposite polarity: more are flipped than agree."""
    agreeing, flipped = votes(comparisons)
    return flipped > agreeing


def polarity_problems(manifest: Manifest, compared: Compared) -> list[str]:
    """One line if all groups' masks are of the opposite polarity, else one for each that is."""
    decided = [group for group, found in compared.items() if sum(votes(found))]
    wrong = [group for group in decided if is_flipped(compared[group])]
    if wrong and len(wrong) == len(decided):
        colour, other = ("white", "black") if manifest.fake_is_white else ("black", "white")
        agreeing, flipped = votes([one for group in wrong for one in compared[group]])
        return [
            f"masks of the opposite polarity: {colour} is read as fake, but in {flipped} of "
            f"{agreeing + flipped} compared with real pictures what differs is {other}; pass "
            f"--polarity {other}-is-fake"
        ]
    return [
        f"masks of the opposite polarity in {group}: in {flipped} of {agreeing + flipped} compared "
        "with real pictures what differs is called real; invert these masks"
        for group, (agreeing, flipped) in ((group, votes(compared[group])) for group in wrong)
    ]


def spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most so many of the items, spread evenly over them."""
    if len(items) <= most:
        return items
    return [items[number * len(items) // most] for number in range(most)]
