"""Splits: from folder names, or by a hash where a data set has none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from declip_pipeline.compute import derived_seed
from declip_pipeline.datasets.samples import Sample
from declip_pipeline.errors import InputError

UNSPLIT = "all"

SPLIT_NAMES = ("train", "valid", "test")

_SPLIT_OF_FOLDER = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


def split_named(name: str) -> str | None:
    """The split that a name stands for, in any case; None if for none."""
    return _SPLIT_OF_FOLDER.get(name.lower())


def splits_of_paths(where: str, paths: Mapping[str, str]) -> dict[str, str]:
    """The split of each picture, from the first folder of its path below the images' folder.

    `paths` maps a picture to that path, posix. The folders are train, valid (or val) and test, in
    any case; where no picture lies in one of them, all are of the split "all".

    Raises `InputError` when some pictures lie in such folders and others outside.
    """
    found = {
        # A picture's own name in the place of a folder is harmless: it has a suffix.
        picture: split_named(path.split("/")[0]) or UNSPLIT
        for picture, path in paths.items()
    }
    outside = sorted(picture for picture, split in found.items() if split == UNSPLIT)
    if outside and len(outside) < len(found):
        raise InputError(
            f"{where}: {len(outside)} of {len(found)} pictures lie outside the folders train, "
            f"valid and test (the first is {outside[0]}); put each into one of them"
        )
    return found


def assign_splits(
    samples: Sequence[Sample],
    percents: tuple[int, int, int],
    *,
    scene_of: Callable[[Sample], str] = attrgetter("id"),
) -> tuple[Sample, ...]:
    """Split unsplit samples into train, valid and test by a hash of their scene.

    `percents` are those of train, valid and test, 100 in all. `scene_of` names what a picture
    shows, by default its id: what shows the same must not be learned from and tested on. A
    sample's split depends on its scene alone, so adding pictures moves no other; the shares are
    met on average, not to the picture.

    Raises `InputError` for percents that are not that, or samples that have splits already.
    """
    if min(percents) < 0 or sum(percents) != 100:
        shown = ", ".join(map(str, percents))
        raise InputError(f"split percents {shown}; three numbers of 0 to 100, 100 in all, expected")
    existing = sorted({sample.split for sample in samples} - {UNSPLIT})
    if existing:
        raise InputError(
            f"the data set has splits already ({', '.join(existing)}); leave the percents out"
        )
    return tuple(
        replace(sample, split=_split_of_scene(scene_of(sample), percents)) for sample in samples
    )


def _split_of_scene(scene: str, percents: tuple[int, int, int]) -> str:
    place = derived_seed(0, "split", scene) % 100
    if place < percents[0]:
        return "train"
    return "valid" if place < percents[0] + percents[1] else "test"
