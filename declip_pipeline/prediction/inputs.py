"""Images to predict: files, folders and patterns, and the names of their results."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from declip_pipeline.datasets.left_out import left_out_of
from declip_pipeline.datasets.listing import IMAGE_SUFFIXES, list_images
from declip_pipeline.errors import InputError


def named_images(inputs: Sequence[str | Path], out: Path) -> dict[str, Path]:
    """Return the images by the names of their results: paths below the input, without suffix.

    Where two images would get the same name, they keep their suffixes; an image that is given
    twice counts once. Files in `out`, a folder inside an input, are results and left out.

    Raises `InputError` for an input without images, one that `out` is or holds, names that are
    not UTF-8, and images that cannot be told apart by name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for text in inputs:
        base, images = _images_of(text)
        _refuse_results_among_inputs(out, base)
        own = [pair for pair in images if out.resolve() not in pair[0].resolve().parents]
        if not own:
            raise InputError(
                f"no images found under {text}; "
                f"expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        for path, place in own:
            _refuse_unwritable_name(path)
            found.setdefault(os.path.abspath(path), (path, place))  # noqa: PTH100
    times = Counter(place.with_suffix("") for _, place in found.values())
    named: dict[str, Path] = {}
    for path, place in found.values():
        short = place.with_suffix("")
        name = (place if times[short] > 1 else short).as_posix()
        if name in named:
            raise InputError(
                f"two inputs hold an image named {name}, one is {path}; predict them apart"
            )
        named[name] = path
    return named


def left_out_of_inputs(inputs: Sequence[str | Path], out: Path) -> list[str]:
    """Return a line for each kind of files in the folders of the inputs that are no images."""
    lines = []
    for folder in [Path(text) for text in inputs if Path(text).is_dir()]:
        place, base = out.resolve(), folder.resolve()
        results = [place.relative_to(base).as_posix()] if base in place.parents else []
        found = left_out_of(folder, list_images(folder), accounted=results)
        lines += [f"{folder}: {one}" for one in found]
    return lines


def _images_of(text: str | Path) -> tuple[Path, list[tuple[Path, Path]]]:
    """Return the folder that an input is listed from, and its images with their places in it."""
    if not str(text):
        raise InputError("an input is empty; expected a file, a folder or a pattern")
    path = Path(text)
    if path.exists() and not path.is_dir():
        return path.parent, [(path, Path(path.name))]
    if path.is_dir():
        return path, [(path / name, Path(name)) for name in list_images(path)]
    base, pattern = _taken_apart(path)
    matches = sorted(glob.glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207
    places = [Path(os.path.normpath(match)) for match in matches if not (base / match).is_dir()]
    if not places:
        raise InputError(f"{text} names no image; expected a file, a folder or a pattern")
    return base, [
        # A pattern that climbs up must not place results outside the output.
        (base / place, Path(place.name) if ".." in place.parts else place)
        for place in places
    ]


def _taken_apart(pattern: Path) -> tuple[Path, str]:
    """Return the folders that a pattern begins with, and the rest.

    What is there by that name is no wildcard, so that a folder may be called `scans[1]`.
    """
    parts = pattern.parts
    fixed = 0
    while fixed < len(parts) - 1 and Path(*parts[: fixed + 1]).is_dir():
        fixed += 1
    return Path(*parts[:fixed]), str(Path(*parts[fixed:]))


def _refuse_results_among_inputs(out: Path, base: Path) -> None:
    place, images = out.resolve(), base.resolve()
    if place == images or place in images.parents:
        raise InputError(
            f"results in {out} would lie among the images of {base} and may replace them; "
            "name another folder with `out`"
        )


def _refuse_unwritable_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a} is a name that is not UTF-8; rename it") from error
