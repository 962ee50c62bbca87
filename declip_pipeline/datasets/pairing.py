"""Pairing of images and masks: by name, never by sort order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from declip_pipeline.datasets.listing import stem_of
from declip_pipeline.errors import InputError

PAIRING_RULE = "a mask has its image's name"


@dataclass(frozen=True)
class Pairing:
    """Pairs, and what has no partner: paths below the folder of images and the folder of masks."""

    pairs: tuple[tuple[str, str], ...]
    images_without_mask: tuple[str, ...]
    masks_without_image: tuple[str, ...]


def pair_by_stem(
    images: Iterable[str], masks: Iterable[str], *, mask_endings: Sequence[str] = ()
) -> Pairing:
    """Pair images and masks of the same relative path without suffix.

    Args:
        images: Posix paths relative to the folder of images.
        masks: Posix paths relative to the folder of masks.
        mask_endings: Endings that a mask's stem may have beyond its image's, such as "_mask",
            where no image has the whole stem.

    Returns:
        Everything sorted by stem.

    Raises:
        InputError: When two images, or two masks, have one stem.
    """
    image_of = _by_stem("images", images, stem_of)

    def stem_of_mask(mask: str) -> str:
        stem = stem_of(mask)
        shorter = (stem.removesuffix(ending) for ending in mask_endings)
        return next((name for name in (stem, *shorter) if name in image_of), stem)

    mask_of = _by_stem("masks", masks, stem_of_mask)
    return Pairing(
        pairs=tuple((image_of[s], mask_of[s]) for s in sorted(image_of.keys() & mask_of.keys())),
        images_without_mask=tuple(image_of[s] for s in sorted(image_of.keys() - mask_of.keys())),
        masks_without_image=tuple(mask_of[s] for s in sorted(mask_of.keys() - image_of.keys())),
    )


def require_paired(
    where: str,
    images_without_mask: Sequence[str],
    masks_without_image: Sequence[str],
    *,
    other_files: Sequence[str] = (),
    rule: str = PAIRING_RULE,
) -> None:
    """Raise `InputError` with the first five of each kind and the count, if there are any.

    Args:
        where: The dataset, in the message.
        images_without_mask: Paths of images.
        masks_without_image: Paths of masks.
        other_files: Paths of files beside the masks that are no images.
        rule: How names belong together in the layout at hand, in the message.
    """
    found = []
    if images_without_mask:
        found.append(f"{count_and_names('image', images_without_mask)} without a mask")
    if masks_without_image:
        found.append(f"{count_and_names('mask', masks_without_image)} without an image")
    if images_without_mask and other_files:
        found.append(
            f"{count_and_names('file', other_files)} beside the masks of a type that is not read; "
            "save such masks as PNG"
        )
    if found:
        raise InputError(
            f"{where} holds {' and '.join(found)}; {rule}, pass `allow_unpaired=True` to leave "
            "these out"
        )


def count_and_names(kind: str, names: Sequence[str]) -> str:
    """Return the count of a kind with the first five names, as in "2 masks (a.png, b.png)"."""
    count = f"{len(names)} {kind}{'s' if len(names) > 1 else ''}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{count} ({', '.join(names[:5])}{more})"


def _by_stem(kind: str, paths: Iterable[str], stem_of_path: Callable[[str], str]) -> dict[str, str]:
    by_stem: dict[str, str] = {}
    for path in sorted(paths):
        other = by_stem.setdefault(stem_of_path(path), path)
        if other != path:
            raise InputError(
                f"two {kind} share one name, {other} and {path}; remove or rename one of them"
            )
    return by_stem
