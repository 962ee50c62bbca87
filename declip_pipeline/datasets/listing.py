"""Listing of the image files in a folder, and the ids that their paths give them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

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


_LEFTOVERS = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "icon\r",
    }
)


class Listing(NamedTuple):
    """Files in a folder and below it: posix paths relative to it, sorted.

    Attributes:
        images: Regular files with a suffix of `IMAGE_SUFFIXES`.
        others: Regular files with any other suffix.
        irregular: What is neither a file nor a folder: pipes, devices, links that lead nowhere.
    """

    images: list[str]
    others: list[str]
    irregular: list[str]


def list_files(folder: Path) -> Listing:
    """List a folder and all below it, without what is no data.

    Hidden files and folders, and what operating systems and disk stations leave behind
    (Thumbs.db, desktop.ini, __MACOSX, @eaDir, ...), are no data. Links to folders are followed.

    Raises:
        InputError: For a folder that cannot be listed, a name that is not UTF-8, or a link that
            leads back to a folder above it.
    """
    found = Listing([], [], [])
    for path, is_file in _walk(folder, "", (folder.resolve(),)):
        if not is_file:
            found.irregular.append(path)
        elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            found.images.append(path)
        else:
            found.others.append(path)
    return Listing(*map(sorted, found))


def list_images(folder: Path) -> list[str]:
    """Return the images that `list_files` finds. Raises as it does."""
    return list_files(folder).images


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders directly in a folder by name, sorted, without those that are no data.

    Raises:
        InputError: For a folder that cannot be listed.
    """
    return {name: folder / name for name, is_folder, _ in _entries(folder) if is_folder}


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


def _walk(folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[tuple[str, bool]]:
    for name, is_folder, is_file in _entries(folder):
        if not is_folder:
            yield prefix + name, is_file
            continue
        target = (folder / name).resolve()
        if target in above:
            raise InputError(f"{folder / name} leads back to {target}; remove the link")
        yield from _walk(folder / name, f"{prefix}{name}/", (*above, target))


def _entries(folder: Path) -> list[tuple[str, bool, bool]]:
    """Names in a folder, sorted, with flags for folders and regular files; without leftovers."""
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, *_kind(one)) for one in entries if not _is_leftover(one.name)]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}") from error
    for name, *_ in found:
        if name != name.encode(errors="replace").decode():
            raise InputError(f"{folder} holds {name!a}, a name that is not UTF-8; rename it")
    return sorted(found)


def _kind(entry: "os.DirEntry[str]") -> tuple[bool, bool]:
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        return False, False


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFTOVERS
