"""Splits: from the names of folders, or drawn by a hash where a dataset has none."""

from collections.abc import Sequence

from declip_pipeline.compute import derived_seed
from declip_pipeline.datasets.sample import UNSPLIT
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError

SPLIT_NAMES = ("train", "valid", "test")

_SPLIT_OF_FOLDER = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "test-dev": "test",
}

KNOWN_SPLIT_FOLDERS = tuple(_SPLIT_OF_FOLDER)
"""Names of folders, and of cells of a table, that stand for a split; in any case."""


def split_named(name: str) -> str | None:
    """Return the split that one of `KNOWN_SPLIT_FOLDERS` stands for; None for any other name."""
    return _SPLIT_OF_FOLDER.get(name.lower().replace("_", "-"))


def splits_of_paths(where: str, images: Sequence[str], below: Sequence[str]) -> list[str]:
    """Return the split of each image, from the first folder of its path below a folder.

    The folders are those of `KNOWN_SPLIT_FOLDERS`, in any case; where no image lies in one of
    them, all are of the split "all".

    Args:
        where: The dataset, in the message.
        images: The images, in the message.
        below: For each image, its posix path below the folder that holds the splits' folders.

    Raises:
        InputError: When some images lie in such folders and others outside.
    """
    # An image's own name in the place of a folder is harmless: it has a suffix.
    found = [split_named(path.partition("/")[0]) or UNSPLIT for path in below]
    outside = sorted(image for image, split in zip(images, found, strict=True) if split == UNSPLIT)
    if outside and len(outside) < len(found):
        raise InputError(
            f"{where}: {len(outside)} of {len(found)} images lie outside the folders train, "
            f"valid and test (the first is {outside[0]}); put each into one of them"
        )
    return found


def assign_splits(samples: Samples, percents: tuple[int, int, int]) -> Samples:
    """Split unsplit samples into train, valid and test by a hash of their scene.

    With 0 percent of test, a published train split without a valid one is divided, and a test split
    stays; where all are in the one split that is asked for, nothing changes. A sample's split
    depends on its scene alone: images of one scene stay together, so that nothing is tested on that
    was learned, and adding images moves no other. The percents are met on average, not to the
    image.

    Args:
        samples: All of the split "all", or of train and maybe test where none is drawn for test.
        percents: Percents of train, valid and test, 100 in all.

    Raises:
        InputError: For other percents, or samples that have splits already.
    """
    if min(percents) < 0 or sum(percents) != 100:
        shown = ", ".join(map(str, percents))
        raise InputError(f"split percents {shown}; three numbers of 0 to 100, 100 in all, expected")
    existing = sorted({*samples.names("split")} - {UNSPLIT})
    if len(existing) == 1 and percents[SPLIT_NAMES.index(existing[0])] == 100:
        return samples
    divided = {UNSPLIT}
    if existing and {*existing} <= {"train", "test"} and "train" in existing:
        divided = {"train"}
    if existing and (percents[2] or divided == {UNSPLIT}):
        way_out = "" if divided == {UNSPLIT} else ", or draw valid from train with none for test"
        raise InputError(
            f"the dataset has splits already ({', '.join(existing)}); leave the percents out"
            f"{way_out}"
        )
    return samples.replace(
        split=[
            _split_of_scene(scene, percents) if split in divided else split
            for split, scene in zip(samples.strings("split"), samples.strings("scene"), strict=True)
        ]
    )


def _split_of_scene(scene: str, percents: tuple[int, int, int]) -> str:
    place = derived_seed(0, "split", scene) % 100
    if place < percents[0]:
        return "train"
    return "valid" if place < percents[0] + percents[1] else "test"
