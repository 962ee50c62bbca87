"""A folder of pictures beside a folder of masks, whatever the two are called."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from declip_pipeline.datasets.listing import list_pictures, subfolders, unique_ids
from declip_pipeline.datasets.manifest import FAKE, Manifest, Sample
from declip_pipeline.datasets.pairing import PAIRING_RULE, pair_by_stem, require_paired
from declip_pipeline.datasets.splits import split_named, splits_of_paths
from declip_pipeline.errors import InputError

FolderNames = Mapping[str, tuple[str, ...]]
"""What the folders of pictures and of masks may be called, in lower case; the pictures' first."""


def read_parallel_folders(
    root: Path,
    *,
    folder_names: FolderNames,
    expected: str,
    name: str,
    generator: str,
    fake_is_white: bool,
    allow_unpaired: bool,
    mask_endings: Sequence[str] = (),
    rule: str = PAIRING_RULE,
) -> Manifest:
    """Read two folders that mirror each other: flat, in train/valid/test, or in any subfolders.

    The two may also lie in train/, valid/ and test/, below each its own. Every sample is a fake of
    `generator` and of source `name`; `expected` and `rule` are for the errors, `mask_endings` for
    `pair_by_stem`.

    Raises `InputError` for a missing folder, for no pictures, and for what does not pair.
    """
    places = _places(root, folder_names)
    pairs: list[tuple[str, str, str]] = []
    alone: list[str] = []
    masks_alone: list[str] = []
    for place in places:
        images, masks = (
            _required(root, place, kind, folder_names, expected) for kind in folder_names
        )
        pairing = pair_by_stem(
            list_pictures(root / images), list_pictures(root / masks), mask_endings=mask_endings
        )
        if not pairing.pairs and not pairing.images_without_mask:
            raise InputError(f"no pictures found under {root / images}; expected {expected}")
        # What stands for the split comes first: the folder above the two, or the one inside.
        pairs += [(images + image, masks + mask, place + image) for image, mask in pairing.pairs]
        alone += [images + path for path in pairing.images_without_mask]
        masks_alone += [masks + path for path in pairing.masks_without_image]
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone, rule=rule)
    ids = unique_ids([image for image, _, _ in pairs])
    splits = splits_of_paths(str(root), {image: below for image, _, below in pairs})
    samples = [
        Sample(
            id=ids[image],
            image=image,
            mask=mask,
            split=splits[image],
            generator=generator,
            label=FAKE,
            source=name,
        )
        for image, mask, _ in pairs
    ]
    return Manifest(name, root, fake_is_white, tuple(samples), tuple(sorted(alone + masks_alone)))


def has_one_of(root: Path, folder_names: FolderNames) -> bool:
    """Whether `root`, or a split's folder in it, holds a folder of pictures or of masks."""
    return any(
        _folder(root / place, kind, folder_names)
        for place in _places(root, folder_names)
        for kind in folder_names
    )


def _places(root: Path, folder_names: FolderNames) -> list[str]:
    """Where the two folders lie below the root: in it (""), or in the folders of its splits."""
    if any(_folder(root, kind, folder_names) for kind in folder_names):
        return [""]
    in_splits = [
        f"{name}/"
        for name, folder in subfolders(root).items()
        if split_named(name) and any(_folder(folder, kind, folder_names) for kind in folder_names)
    ]
    return in_splits or [""]


def _required(root: Path, place: str, kind: str, folder_names: FolderNames, expected: str) -> str:
    folder = _folder(root / place, kind, folder_names)
    if folder is None:
        raise InputError(f"{root / place} has no {kind}/ folder; expected {expected}")
    return f"{place}{folder}/"


def _folder(root: Path, kind: str, folder_names: FolderNames) -> str | None:
    """Name of the subfolder of one kind, None if there is none."""
    found = [name for name in subfolders(root) if name.lower() in folder_names[kind]]
    if len(found) > 1:
        raise InputError(f"{root} holds {' and '.join(found)}; one folder of {kind} expected")
    return found[0] if found else None
