"""Layout of images without masks: a folder, possibly nested, of which nobody says what is fake."""

import re
from pathlib import Path

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_images, stem_of
from declip_pipeline.datasets.sample import UNKNOWN, UNKNOWN_GENERATOR
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import splits_of_paths
from declip_pipeline.errors import InputError

EXPECTED = "a folder of images without masks"
FAKE_IS_WHITE = True

_LIKE_A_MASK = re.compile(
    r"(^|[^a-z]|edge)(masks?|gts?|ground[ _-]?truths?)([^a-z]|$)", re.IGNORECASE
)


def read_unmasked(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read every image in a folder and below it, with label -1 and generator "unknown".

    Folders train, valid and test give the splits; each image is a scene of its own.
    `fake_is_white` and `allow_unpaired` say nothing of images without masks.

    Raises:
        InputError: For no images, and where some lie in folders of splits and others outside.
    """
    images = list_images(root)
    if not images:
        raise InputError(f"no images found under {root}; expected {EXPECTED}")
    samples = Samples.from_columns(
        images,
        split=splits_of_paths(str(root), images, images),
        generator=UNKNOWN_GENERATOR,
        source=name,
        label=UNKNOWN,
    )
    return Dataset(name, root, fake_is_white, samples)


def is_unmasked(root: Path) -> bool:
    """Return whether `root` holds images, and nothing that is named as masks are."""
    images = list_images(root)
    return bool(images) and not any(_LIKE_A_MASK.search(stem_of(image)) for image in images)
