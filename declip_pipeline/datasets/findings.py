"""Findings on a dataset: what would spoil a result, and what is good to know."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from declip_pipeline.datasets.checks import (
    Duplicates,
    GroupMasks,
    Size,
    other_size_text,
    size_text,
    unusual_masks_lines,
)
from declip_pipeline.datasets.contents import are_whole
from declip_pipeline.datasets.counterparts import (
    Compared,
    Group,
    Verdict,
    groups_of,
    is_flipped,
    polarity_problems,
    votes,
)
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.sample import FAKE, REAL, UNKNOWN, UNSPLIT, Sample
from declip_pipeline.datasets.scan import Scan
from declip_pipeline.datasets.splits import SPLIT_NAMES


@dataclass
class GroupFacts:
    """Facts of a group.

    Args:
        images: Number of images.
        label: 1 fake, 0 real, -1 unknown.
        sizes: Number of readable images of each size.
        masks: Its masks, as they were read.
    """

    images: int
    label: int
    sizes: Counter[Size]
    masks: GroupMasks

    @property
    def fake_shares(self) -> list[float]:
        """Share of fake pixels, in [0, 1], of each mask that could be read."""
        return self.masks.shares

    @property
    def mean_fake_share(self) -> float | None:
        """Mean over masks, in [0, 1]; None where there are none."""
        return float(np.mean(self.fake_shares)) if self.fake_shares else None


@dataclass
class Findings:
    """Findings, a line each: problems would spoil a result, notes are good to know."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def facts_of_groups(scan: Scan) -> dict[Group, GroupFacts]:
    """Return the facts of every group of a scan that decoded the masks."""
    samples, sizes = scan.dataset.samples, scan.dataset.samples.sizes
    labels = samples.labels
    facts = {}
    masks = samples.table.column("mask")
    unusual = set(scan.unusual_masks)
    whole = are_whole(masks)
    for group, rows in groups_of(samples).items():
        paths = masks.take(pa.array(rows)).to_pylist() if unusual else []
        found, counts = np.unique(sizes[rows][sizes[rows].any(axis=1)], axis=0, return_counts=True)
        shares = scan.fake_shares[rows]
        facts[group] = GroupFacts(
            len(rows),
            int(labels[rows[0]]),
            Counter(dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))),
            GroupMasks(
                len(rows),
                shares[~np.isnan(shares)].tolist(),
                {path: scan.unusual_masks[path] for path in unusual.intersection(paths)},
                is_whole=bool(whole[rows].all()),
            ),
        )
    return facts


def other_sizes(scan: Scan) -> dict[str, tuple[str, Size, Size]]:
    """Return mask, image size and mask size of readable pairs that differ, by the image's path."""
    samples, sizes = scan.dataset.samples, scan.dataset.samples.sizes
    readable = sizes.any(axis=1) & scan.mask_sizes.any(axis=1)
    rows = np.flatnonzero(readable & (sizes != scan.mask_sizes).any(axis=1))
    pairs = zip(sizes[rows].tolist(), scan.mask_sizes[rows].tolist(), strict=True)
    return {
        samples[int(row)].image: (str(samples[int(row)].mask), tuple(image), tuple(mask))
        for row, (image, mask) in zip(rows, pairs, strict=True)
    }


def findings_of(
    scan: Scan,
    facts: Mapping[Group, GroupFacts],
    compared: Compared,
    duplicates: Duplicates,
    *,
    polarity_is_given: bool = False,
    unpaired_is_allowed: bool = False,
) -> Findings:
    """Return the problems and notes of a dataset.

    Args:
        scan: With decoded masks.
        facts: Those of the scan.
        compared: Fakes that were compared with their real images.
        duplicates: Those of the scan's samples.
        polarity_is_given: A user has said which colour is fake, so most of the pixels may be.
        unpaired_is_allowed: Files without a partner are a note.
    """
    dataset = scan.dataset
    findings = Findings()
    _add_unpaired(dataset, findings, unpaired_is_allowed)
    _add_splits(dataset, facts, findings)
    _add_files(scan, findings)
    _add_polarity(dataset, compared, findings)
    for source, generator in _generators(facts):
        _add_masks(dataset, facts, compared, source, generator, polarity_is_given, findings)
    _add_sizes(facts, findings)
    findings.problems += duplicate_problems(duplicates)
    if duplicates.within_split:
        findings.notes.append(f"{_pairs(duplicates.within_split)}: the same content in one split")
    return findings


def unpaired_files_and_folders(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Return what has no partner: files, and folders of images that have no masks at all."""
    folders = [path for path in dataset.unpaired if (dataset.root / path).is_dir()]
    return [path for path in dataset.unpaired if path not in folders], folders


def wholly_generated_text(folders: Sequence[str]) -> str:
    """Return one line on folders without masks, at least one."""
    return (
        f"{count_and_names('folder', folders)} of wholly generated images, without masks, left out"
    )


def _add_unpaired(dataset: Dataset, findings: Findings, is_allowed: bool) -> None:
    files, folders = unpaired_files_and_folders(dataset)
    if files:
        text = f"{count_and_names('file', files)} without a partner"
        (findings.notes if is_allowed else findings.problems).append(text)
    if folders:
        findings.notes.append(wholly_generated_text(folders))
    findings.notes += map(str, dataset.left_out)


def _add_splits(dataset: Dataset, facts: Mapping[Group, GroupFacts], findings: Findings) -> None:
    if dataset.splits == (UNSPLIT,):
        findings.notes.append(
            'no splits; `assign_splits` draws them, or evaluate on all of it with `split="all"`'
        )
        return
    if dataset.splits == ("test",):
        findings.notes.append("test is the only split: fit to evaluate on, not to train on")
        return
    if dataset.splits in (("train",), ("test", "train")) and dataset.samples.have_masks:
        findings.notes.append(
            "no valid split, which a training needs; draw it from train with "
            "`assign_splits=(95, 5, 0)`"
        )
        return
    splits_of: dict[tuple[str, str], set[str]] = {}
    for group, found in facts.items():
        if found.label != UNKNOWN:
            splits_of.setdefault((group.source, group.generator), set()).add(group.split)
    for (source, generator), splits in sorted(splits_of.items()):
        missing = [split for split in SPLIT_NAMES if split not in splits]
        if missing:
            findings.problems.append(
                f"{source} {generator} has no {' and no '.join(missing)} split; each generator "
                "needs train, valid and test"
            )


def _add_files(scan: Scan, findings: Findings) -> None:
    if scan.unreadable:
        path, reason = min(scan.unreadable.items())
        names = count_and_names("file", sorted(scan.unreadable))
        findings.problems.append(f"{names} cannot be used; {path}: {reason}")
    others = other_sizes(scan)
    if others:
        _, (mask, size, mask_size) = min(others.items())
        names = count_and_names("image", sorted(others))
        findings.problems.append(
            f"{names} of another size than the mask; {mask} {other_size_text(size, mask_size)}; "
            f"resize these masks, or leave them out as failures with `max_failures={len(others)}`"
        )


def _add_polarity(dataset: Dataset, compared: Compared, findings: Findings) -> None:
    findings.problems += polarity_problems(dataset, compared)
    decided = [found for found in compared.values() if sum(votes(found))]
    if not decided:
        labels = {*dataset.samples.labels.tolist()}
        findings.notes.append(
            "no fake could be compared with the real image that it was made from, so nothing "
            "proves the polarity of the masks; look at some"
            if FAKE in labels
            else "images without masks: their features can be extracted, nothing can be learned "
            "from them or tested on them"
            if UNKNOWN in labels
            else "real images alone, no masks"
        )
    odd = [
        comparison.sample.image
        for found in decided
        for comparison in found
        if comparison.verdict is Verdict.FLIPPED and not is_flipped(found)
    ]
    if odd:
        findings.notes.append(
            f"{count_and_names('fake', sorted(odd))} where the real image differs more outside "
            "the mask than inside; look at them"
        )


def _add_masks(
    dataset: Dataset,
    facts: Mapping[Group, GroupFacts],
    compared: Compared,
    source: str,
    generator: str,
    polarity_is_given: bool,
    findings: Findings,
) -> None:
    """Shares of fake pixels of one generator: none, all, or most where nothing else can tell."""
    groups = [g for g in facts if (g.source, g.generator) == (source, generator)]
    whole = [group for group in groups if facts[group].masks.is_whole]
    findings.notes += [
        f"{group}: all images are generated as a whole, {facts[group].images} in number"
        for group in sorted(whole, key=str)
    ]
    groups = [group for group in groups if group not in whole]
    for group in sorted(groups, key=str):
        masks = facts[group].masks
        if not masks.shares:
            continue
        count = f"{len(masks.shares)} mask{'s' if len(masks.shares) > 1 else ''}"
        if not masks.has_both:
            colour = "white" if dataset.fake_is_white else "black"
            findings.problems.append(
                f"{group}: none of its {count} has both fake and real pixels, reading {colour} as "
                "fake"
            )
        elif empty := masks.shares.count(0.0):
            findings.notes.append(f"{group}: {empty} of {count} have no fake pixel")
        problems, notes = unusual_masks_lines(
            group,
            masks,
            fake_is_white=dataset.fake_is_white,
            polarity_is_given=polarity_is_given,
        )
        (findings.notes if polarity_is_given else findings.problems).extend(problems)
        findings.notes += notes
    shares = [share for group in groups for share in facts[group].fake_shares]
    is_proved = any(sum(votes(compared.get(group, ()))) for group in groups)
    has_both = any(facts[group].masks.has_both for group in groups)
    if has_both and not is_proved and not polarity_is_given:
        findings.problems += large_share_problems(
            source, generator, shares, masks=len(shares), fake_is_white=dataset.fake_is_white
        )


def large_share_problems(
    source: str, generator: str, shares: Sequence[float], *, masks: int, fake_is_white: bool
) -> list[str]:
    """Return one line if masks that no real images prove call most of the pixels fake.

    Args:
        source: Source of the masks' images.
        generator: Generator of the masks' images.
        shares: Shares of fake pixels, in [0, 1], in some or all of the generator's masks.
        masks: Number of the generator's masks.
        fake_is_white: Whether white pixels were read as fake.
    """
    mean = sum(shares) / max(1, len(shares))
    if mean <= 0.5:
        return []
    other = "black" if fake_is_white else "white"
    some = "its " if len(shares) == masks else f"{len(shares)} of its "
    count = f"{some}{masks} mask{'s' if masks > 1 else ''}"
    return [
        f"{source} {generator}: {count} call {100 * mean:.1f}% of the pixels fake, and no "
        f"real images tell whether that is so; if {other} marks fake pixels pass "
        f"`fake_is_white={not fake_is_white}`, if not, `fake_is_white={fake_is_white}`"
    ]


def _add_sizes(facts: Mapping[Group, GroupFacts], findings: Findings) -> None:
    sizes = {size for found in facts.values() for size in found.sizes}
    if len(sizes) > 1:
        findings.notes.append(f"images of {sizes_text(list(sizes))}; each is resized for itself")
    of_label: dict[int, set[Size]] = {FAKE: set(), REAL: set(), UNKNOWN: set()}
    for found in facts.values():
        of_label[found.label] |= found.sizes.keys()
    if of_label[REAL] and of_label[FAKE] and not of_label[REAL] & of_label[FAKE]:
        findings.notes.append(
            "no real image has the size of a fake: detection may learn sizes, not forgeries"
        )


def sizes_text(sizes: Sequence[Size]) -> str:
    """Return one size as text, or the number of sizes with the smallest and largest by area."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    if len(ordered) <= 1:
        return "".join(map(size_text, ordered)) or "-"
    return f"{len(ordered)} sizes, {size_text(ordered[0])} to {size_text(ordered[-1])}"


def duplicate_problems(duplicates: Duplicates) -> list[str]:
    """Return one line on images of both labels, and one on those that are in several splits."""
    problems = []
    if duplicates.across_labels:
        problems.append(
            f"{_pairs(duplicates.across_labels)}: the same content is real here and fake there"
        )
    if duplicates.across_splits:
        problems.append(
            f"{_pairs(duplicates.across_splits)}: the same content is in several splits, so what "
            "is tested on was learned"
        )
    return problems


def _pairs(duplicates: Sequence[Sequence[Sample]]) -> str:
    return count_and_names(
        "duplicate", [" = ".join(sample.image for sample in samples) for samples in duplicates]
    )


def _generators(groups: Mapping[Group, GroupFacts]) -> Iterator[tuple[str, str]]:
    yield from sorted({(group.source, group.generator) for group in groups})
