"""AutoSplice: Authentic/, Forged_JPEG75/, Forged_JPEG90/, Forged_JPEG100/ and Mask/.

Source: AutoSplice, Jia et al., CVPR Workshop on Media Forensics 2023. The same forgeries saved at
three JPEG qualities; 71695_0.jpg and 71695_1.jpg are made of Authentic/71695.jpg, and
Mask/71695_mask.png belongs to both, at each quality. White marks the fake pixels.
"""

import re
from pathlib import Path

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_files, list_images, stem_of, subfolders
from declip_pipeline.datasets.pairing import require_paired
from declip_pipeline.datasets.sample import REAL_GENERATOR
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError

EXPECTED = "the tree of AutoSplice, Forged_JPEG75, Forged_JPEG90 or Forged_JPEG100 beside Mask"
FAKE_IS_WHITE = True
SOURCE = "autosplice"

_FORGED = re.compile(r"forged_jpeg(\d+)", re.IGNORECASE)
_RULE = "the mask of 71695_0.jpg is Mask/71695_mask.png"


def read_autosplice(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read the qualities that are there as generators autosplice-75, -90, -100, and real images.

    The dataset has no splits. One mask serves several images. A scene is a number: the fakes have
    that of the real image that they were made from.

    Raises:
        InputError: For another tree, no images, and images and masks without a partner unless
            `allow_unpaired`.
    """
    qualities = _qualities(root)
    if not qualities:
        raise InputError(f"{root} is not AutoSplice; expected {EXPECTED}")
    masks_folder = _folder(root, "mask")
    if masks_folder is None:
        raise InputError(f"{root} has no Mask/ folder; expected {EXPECTED}")
    mask_of = _masks(root, masks_folder)
    found: list[tuple[str, str | None, str, str]] = []
    alone: list[str] = []
    used: set[str] = set()
    for quality, folder in sorted(qualities.items()):
        for below in list_images(root / folder):
            image = f"{folder}/{below}"
            number = _number_of_forged(image)
            used.add(number)
            if number in mask_of:
                found.append((image, mask_of[number], f"autosplice-{quality}", number))
            else:
                alone.append(image)
    if not found and not alone:
        raise InputError(f"no images found under {root}; expected {EXPECTED}")
    masks_alone = [mask for number, mask in mask_of.items() if number not in used]
    if not allow_unpaired:
        others = [f"{masks_folder}/{path}" for path in list_files(root / masks_folder).others]
        require_paired(str(root), alone, masks_alone, other_files=others, rule=_RULE)
    authentic = _folder(root, "authentic")
    if authentic is not None:
        real = [f"{authentic}/{below}" for below in list_images(root / authentic)]
        found += [(image, None, REAL_GENERATOR, _name_of(image)) for image in real]
    images, masks, generators, scenes = map(list, zip(*found, strict=True)) if found else [[]] * 4
    samples = Samples.from_columns(
        images, mask=masks, generator=generators, source=SOURCE, scene=scenes
    )
    return Dataset(name, root, fake_is_white, samples, tuple(sorted(alone + masks_alone)))


def is_autosplice(root: Path) -> bool:
    """Return whether `root` holds a folder Forged_JPEG followed by a number."""
    return bool(_qualities(root))


def _qualities(root: Path) -> dict[int, str]:
    """Folders of forgeries by their JPEG quality."""
    matches = ((name, _FORGED.fullmatch(name)) for name in subfolders(root))
    return {int(match[1]): name for name, match in matches if match}


def _folder(root: Path, wanted: str) -> str | None:
    return next((name for name in subfolders(root) if name.lower() == wanted), None)


def _masks(root: Path, folder: str) -> dict[str, str]:
    """Masks by the number of their images."""
    mask_of: dict[str, str] = {}
    for below in list_images(root / folder):
        mask = f"{folder}/{below}"
        number = _name_of(below).removesuffix("_mask")
        other = mask_of.setdefault(number, mask)
        if other != mask:
            raise InputError(f"two masks share one name, {other} and {mask}; remove one of them")
    return mask_of


def _number_of_forged(image: str) -> str:
    """71695 of Forged_JPEG75/71695_0.jpg."""
    return _name_of(image).rpartition("_")[0]


def _name_of(path: str) -> str:
    """71695_0 of Forged_JPEG75/71695_0.jpg."""
    return stem_of(path).rpartition("/")[2]
