"""Data sets that a file lists: what the lists of every form have in common."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.listing import unique_ids
from declip_pipeline.datasets.manifest import FAKE, REAL, Manifest, Sample
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.errors import InputError

NEGATIVE = "Negative"
"""What stands in a mask's place where the picture is real."""


@dataclass(frozen=True)
class Listed:
    """One line of a list: paths as they are written there, no mask for a real picture."""

    image: str
    mask: str | None
    split: str
    generator: str
    source: str


def read_listed(
    file: Path, listed: Sequence[Listed], *, name: str, fake_is_white: bool, allow_unpaired: bool
) -> Manifest:
    """The manifest of what `file` lists; its paths are absolute, or relative to its folder.

    The manifest's root is that folder, or the nearest one that holds all that is listed.

    Raises `InputError` for an empty list, a picture that is listed twice, and for files that are
    not there unless `allow_unpaired`; then their samples are left out.
    """
    if not listed:
        raise InputError(f"{file} lists no pictures; expected at least one")
    folder = os.path.normpath(file.parent)
    # A link in a path keeps its name, so that the root is the folder that the list means.
    absolute = {
        path: os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
        for entry in listed
        for path in (entry.image, entry.mask)
        if path is not None
    }
    root = Path(folder)
    if not all(Path(path).is_relative_to(root) for path in absolute.values()):
        root = Path(os.path.commonpath([str(Path(path).parent) for path in absolute.values()]))
    relative = {path: Path(place).relative_to(root).as_posix() for path, place in absolute.items()}
    missing = {path for path, place in absolute.items() if not Path(place).is_file()}
    kept = [entry for entry in listed if not missing & {entry.image, entry.mask}]
    if missing and not (kept and allow_unpaired):
        way_out = (
            "pass --allow-unpaired to leave these out"
            if kept
            else f"none of its {len(listed)} samples has its files"
        )
        raise InputError(
            f"{file} lists {count_and_names('file', sorted(missing))} that cannot be found; paths "
            f"are relative to the list's own folder, {way_out}"
        )
    _refuse_twice(file, [relative[entry.image] for entry in kept])
    ids = unique_ids([relative[entry.image] for entry in kept])
    samples = [
        Sample(
            id=ids[relative[entry.image]],
            image=relative[entry.image],
            mask=None if entry.mask is None else relative[entry.mask],
            split=entry.split,
            generator=entry.generator,
            label=REAL if entry.mask is None else FAKE,
            source=entry.source,
        )
        for entry in kept
    ]
    left_out = {relative[entry.image] for entry in listed if missing & {entry.image, entry.mask}}
    return Manifest(name, root, fake_is_white, tuple(samples), tuple(sorted(left_out)))


def is_negative(mask: str) -> bool:
    """Whether what stands in a mask's place says that the picture is real."""
    return mask.strip().lower() in ("", NEGATIVE.lower())


def _refuse_twice(file: Path, images: Sequence[str]) -> None:
    seen: set[str] = set()
    for image in images:
        if image in seen:
            raise InputError(f"{file} lists {image} twice; each picture is one sample")
        seen.add(image)
