"""Pictures and masks that belong together: by name, never by sort order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from declip_pipeline.datasets.listing import stem_of
from declip_pipeline.errors import InputError


@dataclass(frozen=True)
class Pairing:
    """What belongs together, as paths below the folder of images and the folder of masks."""

    pairs: tuple[tuple[str, str], ...]
    images_without_mask: tuple[str, ...]
    masks_without_image: tuple[str, ...]


def pair_by_stem(images: Iterable[str], masks: Iterable[str]) -> Pairing:
    """Pair pictures and masks of the same relative path without suffix.

    All paths are posix, relative to the folder of images or of masks; pairs come sorted.

    Raises `InputError` when two pictures, or two masks, differ in the suffix alone.
    """
    image_of, mask_of = _by_stem("pictures", images), _by_stem("masks", masks)
    return Pairing(
        pairs=tuple((image_of[s], mask_of[s]) for s in sorted(image_of.keys() & mask_of.keys())),
        images_without_mask=tuple(image_of[s] for s in sorted(image_of.keys() - mask_of.keys())),
        masks_without_image=tuple(mask_of[s] for s in sorted(mask_of.keys() - image_of.keys())),
    )


def require_paired(
    where: str, images_without_mask: Sequence[str], masks_without_image: Sequence[str]
) -> None:
    """Raise `InputError` listing the first five of each kind, and the count, if there are any."""
    found = []
    if images_without_mask:
        found.append(f"{_listed('picture', images_without_mask)} without a mask")
    if masks_without_image:
        found.append(f"{_listed('mask', masks_without_image)} without a picture")
    if found:
        raise InputError(
            f"{where} holds {' and '.join(found)}; a mask has its picture's name, "
            "pass --allow-unpaired to leave these out"
        )


def _by_stem(kind: str, paths: Iterable[str]) -> dict[str, str]:
    by_stem: dict[str, str] = {}
    for path in sorted(paths):
        other = by_stem.setdefault(stem_of(path), path)
        if other != path:
            raise InputError(
                f"two {kind} share one name, {other} and {path}; remove or rename one of them"
            )
    return by_stem


def _listed(kind: str, paths: Sequence[str]) -> str:
    count = f"{len(paths)} {kind}{'s' if len(paths) > 1 else ''}"
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return f"{count} ({', '.join(paths[:5])}{more})"
