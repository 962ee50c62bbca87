"""What a look at a data set means: what would spoil a result, and what is good to know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from declip_pipeline.datasets.counterparts import (
    Compared,
    Verdict,
    is_flipped,
    polarity_problems,
    votes,
)
from declip_pipeline.datasets.duplicates import Duplicates
from declip_pipeline.datasets.manifest import FAKE, REAL_GENERATOR, Manifest, Sample
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.splits import SPLIT_NAMES, UNSPLIT
from declip_pipeline.datasets.survey import Group, GroupFacts, Size, Survey


@dataclass
class Findings:
    """One line each. A data set with problems would spoil a result; notes are good to know."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge_dataset(
    manifest: Manifest,
    survey: Survey,
    compared: Compared,
    duplicates: Duplicates,
    *,
    polarity_is_given: bool = False,
    unpaired_is_allowed: bool = False,
) -> Findings:
    """Judge what was found of a data set.

    `polarity_is_given`: a user has said which colour is fake, so most of the pixels may be.
    """
    findings = Findings()
    _judge_unpaired(manifest, findings, unpaired_is_allowed)
    _judge_splits(manifest, findings)
    _judge_files(survey, findings)
    _judge_polarity(manifest, compared, findings)
    for source, generator in _generators(survey.groups):
        _judge_masks(manifest, survey, compared, source, generator, polarity_is_given, findings)
    _judge_sizes(survey, findings)
    _judge_duplicates(duplicates, findings)
    return findings


def size_text(size: Size) -> str:
    """A size as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


def unpaired_files_and_folders(manifest: Manifest) -> tuple[list[str], list[str]]:
    """What has no partner: single files, and folders of pictures that have no masks at all."""
    folders = [path for path in manifest.unpaired if (manifest.root / path).is_dir()]
    return [path for path in manifest.unpaired if path not in folders], folders


def wholly_generated_text(folders: Sequence[str]) -> str:
    """One line on folders without masks, at least one."""
    return (
        f"{count_and_names('folder', folders)} of wholly generated pictures, without masks, "
        "left out"
    )


def _judge_unpaired(manifest: Manifest, findings: Findings, is_allowed: bool) -> None:
    files, folders = unpaired_files_and_folders(manifest)
    if files:
        text = f"{count_and_names('file', files)} without a partner"
        (findings.notes if is_allowed else findings.problems).append(text)
    if folders:
        findings.notes.append(wholly_generated_text(folders))


def _judge_splits(manifest: Manifest, findings: Findings) -> None:
    if manifest.splits == (UNSPLIT,):
        findings.notes.append(
            "no splits; --assign-splits draws them, or evaluate on all of it with --split all"
        )
        return
    if manifest.splits == ("test",):
        findings.notes.append("test is the only split: fit to evaluate on, not to train on")
        return
    splits_of: dict[tuple[str, str], set[str]] = {}
    for sample in manifest.samples:
        splits_of.setdefault((sample.source, sample.generator), set()).add(sample.split)
    for (source, generator), found in sorted(splits_of.items()):
        missing = [split for split in SPLIT_NAMES if split not in found]
        if missing:
            findings.problems.append(
                f"{source} {generator} has no {' and no '.join(missing)} split; each generator "
                "needs train, valid and test"
            )


def _judge_files(survey: Survey, findings: Findings) -> None:
    if survey.unreadable:
        path, reason = next(iter(sorted(survey.unreadable.items())))
        names = count_and_names("file", sorted(survey.unreadable))
        findings.problems.append(f"{names} cannot be used; {path}: {reason}")
    if survey.other_sizes:
        image, (size, mask) = next(iter(sorted(survey.other_sizes.items())))
        names = count_and_names("picture", sorted(survey.other_sizes))
        findings.problems.append(
            f"{names} of another size than the mask; {image} has {size_text(size)} pixels, its "
            f"mask {size_text(mask)}"
        )


def _judge_polarity(manifest: Manifest, compared: Compared, findings: Findings) -> None:
    findings.problems += polarity_problems(manifest, compared)
    decided = [found for found in compared.values() if sum(votes(found))]
    if not decided:
        findings.notes.append(
            "no fake could be compared with the real picture that it was made from, so nothing "
            "proves the polarity of the masks; look at some"
            if any(sample.label == FAKE for sample in manifest.samples)
            else "real pictures alone, no masks"
        )
    odd = [
        comparison.sample.image
        for found in decided
        for comparison in found
        if comparison.verdict is Verdict.FLIPPED and not is_flipped(found)
    ]
    if odd:
        findings.notes.append(
            f"{count_and_names('fake', sorted(odd))} where the real picture differs more outside "
            "the mask than inside; look at them"
        )


def _judge_masks(
    manifest: Manifest,
    survey: Survey,
    compared: Compared,
    source: str,
    generator: str,
    polarity_is_given: bool,
    findings: Findings,
) -> None:
    """Shares of fake pixels of one generator: none, all, or most where nothing else can tell."""
    groups = [g for g in survey.groups if (g.source, g.generator) == (source, generator)]
    shares = [share for group in groups for share in survey.groups[group].fake_shares]
    if not shares:
        return
    count = f"{len(shares)} mask{'s' if len(shares) > 1 else ''}"
    empty, full = shares.count(0.0), shares.count(1.0)
    if empty + full == len(shares):
        colour = "white" if manifest.fake_is_white else "black"
        findings.problems.append(
            f"{source} {generator}: none of its {count} has both fake and real pixels, reading "
            f"{colour} as fake and grey values from 128 as white"
        )
        return
    if empty:
        findings.notes.append(f"{source} {generator}: {empty} of {count} have no fake pixel")
    is_proved = any(sum(votes(compared.get(group, ()))) for group in groups)
    if not is_proved and not polarity_is_given:
        findings.problems += large_share_problems(
            source, generator, shares, masks=len(shares), fake_is_white=manifest.fake_is_white
        )


def large_share_problems(
    source: str, generator: str, shares: Sequence[float], *, masks: int, fake_is_white: bool
) -> list[str]:
    """One line if masks that no real pictures prove call most of the pixels fake.

    `shares` are those of fake pixels, 0..1, in some or all of the generator's `masks`.
    """
    mean = sum(shares) / max(1, len(shares))
    if mean <= 0.5:
        return []
    colour, other = ("white", "black") if fake_is_white else ("black", "white")
    some = "its " if len(shares) == masks else f"{len(shares)} of its "
    count = f"{some}{masks} mask{'s' if masks > 1 else ''}"
    return [
        f"{source} {generator}: {count} call {100 * mean:.1f}% of the pixels fake, and no "
        f"real pictures tell whether that is so; if {other} marks fake pixels pass --polarity "
        f"{other}-is-fake, if not, --polarity {colour}-is-fake"
    ]


def _judge_sizes(survey: Survey, findings: Findings) -> None:
    sizes = {size for facts in survey.groups.values() for size in facts.sizes}
    if len(sizes) > 1:
        findings.notes.append(f"pictures of {sizes_text(list(sizes))}; each is resized for itself")
    of_label: dict[bool, set[Size]] = {True: set(), False: set()}
    for group, facts in survey.groups.items():
        of_label[group.generator == REAL_GENERATOR] |= facts.sizes.keys()
    if all(of_label.values()) and not of_label[True] & of_label[False]:
        findings.notes.append(
            "no real picture has the size of a fake: detection may learn sizes, not forgeries"
        )


def sizes_text(sizes: Sequence[Size]) -> str:
    """One size, or how many and from which to which, by area."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    if len(ordered) <= 1:
        return "".join(map(size_text, ordered)) or "-"
    return f"{len(ordered)} sizes, {size_text(ordered[0])} to {size_text(ordered[-1])}"


def duplicate_problems(duplicates: Duplicates) -> list[str]:
    """One line on pictures of both labels, and one on those that are in several splits."""
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


def _judge_duplicates(duplicates: Duplicates, findings: Findings) -> None:
    findings.problems += duplicate_problems(duplicates)
    if duplicates.within_split:
        findings.notes.append(f"{_pairs(duplicates.within_split)}: the same content in one split")


def _pairs(duplicates: Sequence[Sequence[Sample]]) -> str:
    return count_and_names(
        "duplicate", [" = ".join(sample.image for sample in samples) for samples in duplicates]
    )


def _generators(groups: Mapping[Group, GroupFacts]) -> Iterator[tuple[str, str]]:
    yield from sorted({(group.source, group.generator) for group in groups})
