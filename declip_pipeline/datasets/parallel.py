"""Layouts of two parallel folders, one of images and one of masks: COCO-SD, Tp and Gt, any other.

Source of COCO-SD (photographs of COCO with parts painted again by Stable Diffusion): one of the
training sets of DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849. Tp/ (tampered images) and Gt/ are
the folders of benchmarks of manipulation. In the masks of all white marks the fake pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_files, list_images, subfolders
from declip_pipeline.datasets.pairing import PAIRING_RULE, pair_by_stem, require_paired
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import split_named, splits_of_paths
from declip_pipeline.errors import InputError

FAKE_IS_WHITE = True
FOLDERS_EXPECTED = "images/ and masks/ side by side"
COCO_SD_EXPECTED = "the tree of COCO-SD, images/ and masks/ with the same names"
TP_GT_EXPECTED = "Tp/ and Gt/ side by side"

_FolderNames = Mapping[str, tuple[str, ...]]
"""Names that the folders of images and of masks may have, in lower case; the images' first."""
_IMAGES_AND_MASKS = {"images": ("images", "image"), "masks": ("masks", "mask")}
_TP_AND_GT = {"Tp": ("tp",), "Gt": ("gt",)}


def read_folders(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read PATH/images and PATH/masks, flat, in splits, or in any mirrored subfolders.

    The folders may also be called image and mask, in any case, and may lie in train/, valid/ and
    test/. Every sample is a fake of generator and source `name`, and a scene of its own.

    Raises:
        InputError: For a missing folder, no images, and images and masks without a partner unless
            `allow_unpaired`.
    """
    return _read(
        root,
        folder_names=_IMAGES_AND_MASKS,
        expected=FOLDERS_EXPECTED,
        name=name,
        generator=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
    )


def read_coco_sd(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read PATH/images and PATH/masks as `read_folders` does; the generator is "coco-sd"."""
    return _read(
        root,
        folder_names=_IMAGES_AND_MASKS,
        expected=COCO_SD_EXPECTED,
        name=name,
        generator="coco-sd",
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
    )


def read_tp_gt(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read PATH/Tp and PATH/Gt, in any case, as `read_folders` reads its two.

    This is `ManiDataset` in IMDL-BenCo (Ma et al., NeurIPS 2024, arXiv 2406.10580), which pairs by
    the names' order; here they pair by name.

    A mask's name may go on with _gt or _mask.
    """
    return _read(
        root,
        folder_names=_TP_AND_GT,
        expected=TP_GT_EXPECTED,
        name=name,
        generator=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        mask_endings=("_gt", "_mask"),
        rule="a mask has its image's name, or that name and _gt or _mask",
    )


def is_folders(root: Path) -> bool:
    """Return whether `root` holds a folder of images or of masks, so that this layout was meant."""
    return _has_one_of(root, _IMAGES_AND_MASKS)


def is_coco_sd(root: Path) -> bool:
    """Return whether `root` is named after COCO-SD and holds a folder of images or of masks."""
    name = root.name.lower().replace("-", "").replace("_", "")
    return "cocosd" in name and _has_one_of(root, _IMAGES_AND_MASKS)


def is_tp_gt(root: Path) -> bool:
    """Return whether `root` holds a folder Tp or Gt, so that this layout was meant."""
    return _has_one_of(root, _TP_AND_GT)


def _read(
    root: Path,
    *,
    folder_names: _FolderNames,
    expected: str,
    name: str,
    generator: str,
    fake_is_white: bool,
    allow_unpaired: bool,
    mask_endings: Sequence[str] = (),
    rule: str = PAIRING_RULE,
) -> Dataset:
    """Read two folders that mirror each other; see `read_folders`."""
    pairs: list[tuple[str, str, str]] = []
    alone: list[str] = []
    masks_alone: list[str] = []
    other_files: list[str] = []
    for place in _places(root, folder_names):
        images, masks = (
            _required(root, place, kind, folder_names, expected) for kind in folder_names
        )
        beside_masks = list_files(root / masks)
        pairing = pair_by_stem(
            list_images(root / images), beside_masks.images, mask_endings=mask_endings
        )
        other_files += [masks + path for path in beside_masks.others]
        if not pairing.pairs and not pairing.images_without_mask:
            raise InputError(f"no images found under {root / images}; expected {expected}")
        # What stands for the split comes first: the folder above the two, or the one inside.
        pairs += [(images + image, masks + mask, place + image) for image, mask in pairing.pairs]
        alone += [images + path for path in pairing.images_without_mask]
        masks_alone += [masks + path for path in pairing.masks_without_image]
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone, other_files=other_files, rule=rule)
    found = [image for image, _, _ in pairs]
    samples = Samples.from_columns(
        found,
        mask=[mask for _, mask, _ in pairs],
        split=splits_of_paths(str(root), found, [below for _, _, below in pairs]),
        generator=generator,
        source=name,
    )
    return Dataset(name, root, fake_is_white, samples, tuple(sorted(alone + masks_alone)))


def _has_one_of(root: Path, folder_names: _FolderNames) -> bool:
    """Return whether `root`, or a split's folder in it, holds a folder of images or of masks."""
    return any(
        _folder(root / place, kind, folder_names)
        for place in _places(root, folder_names)
        for kind in folder_names
    )


def _places(root: Path, folder_names: _FolderNames) -> list[str]:
    """Folders that hold the two: the root itself (""), or the folders of its splits."""
    if any(_folder(root, kind, folder_names) for kind in folder_names):
        return [""]
    in_splits = [
        f"{name}/"
        for name, folder in subfolders(root).items()
        if split_named(name) and any(_folder(folder, kind, folder_names) for kind in folder_names)
    ]
    return in_splits or [""]


def _required(root: Path, place: str, kind: str, folder_names: _FolderNames, expected: str) -> str:
    folder = _folder(root / place, kind, folder_names)
    if folder is None:
        found = ", ".join(subfolders(root / place)) or "no folders"
        raise InputError(
            f"{root / place} has no {kind}/ folder; expected {expected}; found {found}"
        )
    return f"{place}{folder}/"


def _folder(root: Path, kind: str, folder_names: _FolderNames) -> str | None:
    """Name of the subfolder of one kind, None if there is none."""
    found = [name for name in subfolders(root) if name.lower() in folder_names[kind]]
    if len(found) > 1:
        raise InputError(f"{root} holds {' and '.join(found)}; one folder of {kind} expected")
    return found[0] if found else None
