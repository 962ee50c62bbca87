"""Listing of the image files in a folder, and the ids that their paths give them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from declip_pipeline.errors import InputError

# All suffixes that Pillow knows for the formats that are decoded.
_SUFFIXES_OF_FORMAT = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PNG": (".png", ".apng"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
}

IMAGE_SUFFIXES = frozenset(chain.from_iterable(_SUFFIXES_OF_FORMAT.values()))
"""Suffixes of images and masks, in lower case; any case is accepted."""


def list_images(folder: Path) -> list[str]:
    """Return the images in a folder and below it: posix paths relative to it, sorted.

    Hidden files and folders are left out; links to folders are followed.

    Raises:
        InputError: For a folder that cannot be listed, a name that is not UTF-8, or a link that
            leads back to a folder above it.
    """
    return sorted(_walk(folder, "", (folder.resolve(),)))


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders directly in a folder by name, sorted, without the hidden ones.

    Raises:
        InputError: For a folder that cannot be listed.
    """
    return {name: folder / name for name, is_folder in _entries(folder) if is_folder}


def unique_ids(images: Sequence[str]) -> list[str]:
    """Return the id of each path: without suffix, or with it where that alone tells two apart."""
    stems = [stem_of(image) for image in images]
    times = Counter(stems)
    paths = set(images)
    # The second condition keeps "a.png.jpg" from taking the id of "a.png" beside "a.jpg".
    return [
        stem if times[stem] == 1 and stem not in paths else image
        for image, stem in zip(images, stems, strict=True)
    ]


def stem_of(path: str) -> str:
    """Return a posix path without its last suffix."""
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem}" if dot and stem else path


def _walk(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[str]:
    for name, is_folder in _entries(folder):
        if not is_folder:
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
                yield prefix + name
            continue
        target = (folder / name).resolve()
        if target in above:
            raise InputError(f"{folder / name} leads back to {target}; remove the link")
        yield from _walk(folder / name, f"{prefix}{name}/", (*above, target))


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, each with a flag that it is a folder; hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            found = [(e.name, e.is_dir()) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}") from error
    for name, _ in found:
        if name != name.encode(errors="replace").decode():
            raise InputError(f"{folder} holds {name!a}, a name that is not UTF-8; rename it")
    return sorted(found)
