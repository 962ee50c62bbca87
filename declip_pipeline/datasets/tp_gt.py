"""Tampered pictures in Tp/, their masks in Gt/, as benchmarks of manipulation keep them."""

from pathlib import Path

from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.parallel_folders import has_one_of, read_parallel_folders

EXPECTED = "Tp/ and Gt/ side by side"
FAKE_IS_WHITE = True

_FOLDER_NAMES = {"Tp": ("tp",), "Gt": ("gt",)}
_MASK_ENDINGS = ("_gt", "_mask")
_RULE = "a mask has its picture's name, or that name and _gt or _mask"


def read_tp_gt(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read PATH/Tp and PATH/Gt, in any case, flat or in mirrored subfolders, by name.

    Every sample is a fake of generator and source `name`.

    Raises `InputError` for a missing folder, for no pictures, and for what does not pair.
    """
    return read_parallel_folders(
        root,
        folder_names=_FOLDER_NAMES,
        expected=EXPECTED,
        name=name,
        generator=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        mask_endings=_MASK_ENDINGS,
        rule=_RULE,
    )


def is_tp_gt(root: Path) -> bool:
    """Whether `root` holds a folder Tp or Gt, so that this layout was meant."""
    return has_one_of(root, _FOLDER_NAMES)
