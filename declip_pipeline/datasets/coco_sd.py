"""COCO-SD: photographs of COCO with parts painted anew by Stable Diffusion, images/ and masks/.

Source: one of the training sets of DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849. In its masks
white marks the fake pixels.
"""

from pathlib import Path

from declip_pipeline.datasets.folders import FOLDER_NAMES
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.parallel_folders import has_one_of, read_parallel_folders

EXPECTED = "the tree of COCO-SD, images/ and masks/ with the same names"
FAKE_IS_WHITE = True
GENERATOR = "coco-sd"


def read_coco_sd(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read PATH/images and PATH/masks as `read_folders` does; the generator is "coco-sd".

    Raises `InputError` for a missing folder, for no pictures, and for what does not pair.
    """
    return read_parallel_folders(
        root,
        folder_names=FOLDER_NAMES,
        expected=EXPECTED,
        name=name,
        generator=GENERATOR,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
    )


def is_coco_sd(root: Path) -> bool:
    """Whether `root` is named after COCO-SD and holds a folder of images or of masks."""
    name = root.name.lower().replace("-", "").replace("_", "")
    return "cocosd" in name and has_one_of(root, FOLDER_NAMES)
