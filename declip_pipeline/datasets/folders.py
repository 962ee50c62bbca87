"""Parallel folders: images/ and masks/ that mirror each other."""

from pathlib import Path

from declip_pipeline.datasets.listing import list_pictures, subfolders, unique_ids
from declip_pipeline.datasets.manifest import FAKE, Manifest, Sample
from declip_pipeline.datasets.pairing import pair_by_stem, require_paired
from declip_pipeline.datasets.splits import splits_of_paths
from declip_pipeline.errors import InputError

EXPECTED = "images/ and masks/ side by side"
FAKE_IS_WHITE = True

_FOLDER_NAMES = {"images": ("images", "image"), "masks": ("masks", "mask")}


def read_folders(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read PATH/images and PATH/masks, flat, in train/valid/test, or in any mirrored subfolders.

    The folders may also be called image and mask, in any case. Every sample is a fake of generator
    and source `name`.

    Raises `InputError` for a missing folder, for no pictures, and for what does not pair.
    """
    folders = {kind: _folder(root, kind) for kind in _FOLDER_NAMES}
    for kind, folder in folders.items():
        if folder is None:
            raise InputError(f"{root} has no {kind}/ folder; expected {EXPECTED}")
    images, masks = (f"{folder}/" for folder in folders.values())
    pairing = pair_by_stem(list_pictures(root / images), list_pictures(root / masks))
    if not pairing.pairs and not pairing.images_without_mask:
        raise InputError(f"no pictures found under {root / images}; expected {EXPECTED}")
    alone = [images + path for path in pairing.images_without_mask]
    masks_alone = [masks + path for path in pairing.masks_without_image]
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone)
    ids = unique_ids([images + image for image, _ in pairing.pairs])
    splits = splits_of_paths(str(root), {images + image: image for image, _ in pairing.pairs})
    samples = [
        Sample(
            id=ids[images + image],
            image=images + image,
            mask=masks + mask,
            split=splits[images + image],
            generator=name,
            label=FAKE,
            source=name,
        )
        for image, mask in pairing.pairs
    ]
    return Manifest(name, root, fake_is_white, tuple(samples), tuple(sorted(alone + masks_alone)))


def is_folders(root: Path) -> bool:
    """Whether `root` holds a folder of images or of masks, so that this layout was meant."""
    return any(_folder(root, kind) for kind in _FOLDER_NAMES)


def _folder(root: Path, kind: str) -> str | None:
    """Name of the subfolder of images or of masks, None if there is none."""
    found = [name for name in subfolders(root) if name.lower() in _FOLDER_NAMES[kind]]
    if len(found) > 1:
        raise InputError(f"{root} holds {' and '.join(found)}; one folder of {kind} expected")
    return found[0] if found else None
