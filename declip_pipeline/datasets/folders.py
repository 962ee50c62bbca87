"""Parallel folders: images/ and masks/ that mirror each other."""

from pathlib import Path

from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.parallel_folders import has_one_of, read_parallel_folders

EXPECTED = "images/ and masks/ side by side"
FAKE_IS_WHITE = True
FOLDER_NAMES = {"images": ("images", "image"), "masks": ("masks", "mask")}


def read_folders(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read PATH/images and PATH/masks, flat, in train/valid/test, or in any mirrored subfolders.

    The folders may also be called image and mask, in any case, and may lie in train/, valid/ and
    test/. Every sample is a fake of generator and source `name`.

    Raises `InputError` for a missing folder, for no pictures, and for what does not pair.
    """
    return read_parallel_folders(
        root,
        folder_names=FOLDER_NAMES,
        expected=EXPECTED,
        name=name,
        generator=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
    )


def is_folders(root: Path) -> bool:
    """Whether `root` holds a folder of images or of masks, so that this layout was meant."""
    return has_one_of(root, FOLDER_NAMES)
