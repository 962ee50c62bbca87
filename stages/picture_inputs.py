"""The pictures that `predict` was given, each with the name of its results."""

import glob
import os
from collections import Counter
from pathlib import Path

from declip_pipeline.datasets.listing import IMAGE_SUFFIXES, list_images
from declip_pipeline.errors import InputError


def named_pictures(inputs: list[str], out: Path) -> dict[str, Path]:
    """Every picture by the name of its results: its path below the input, without suffix.

    Where two pictures would get the same name, they keep their suffixes; a picture that is given
    twice is one. What lies in `out`, a folder inside an input, is left out: results, not inputs.

    Raises `InputError` for an input without pictures, one that `out` is or holds, names that are
    not UTF-8, and pictures that cannot be told apart by name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for text in inputs:
        base, pictures = _pictures_of(text)
        _refuse_results_among_inputs(out, base)
        own = [pair for pair in pictures if out.resolve() not in pair[0].resolve().parents]
        if not own:
            raise InputError(
                f"no pictures found under {text}; "
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
                f"two inputs hold a picture named {name}, one is {path}; predict them apart"
            )
        named[name] = path
    return named


def _pictures_of(text: str) -> tuple[Path, list[tuple[Path, Path]]]:
    """The folder that an input is listed from, and its pictures with their place below it."""
    if not text:
        raise InputError("an input is empty; expected a file, a folder or a pattern")
    path = Path(text)
    if path.is_file():
        return path.parent, [(path, Path(path.name))]
    if path.is_dir():
        return path, [(path / name, Path(name)) for name in list_images(path)]
    base, pattern = _taken_apart(path)
    matches = sorted(glob.glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207
    places = [Path(os.path.normpath(match)) for match in matches if (base / match).is_file()]
    if not places:
        raise InputError(f"{text} names no picture; expected a file, a folder or a pattern")
    return base, [
        # A pattern that climbs up must not place results outside the output.
        (base / place, Path(place.name) if ".." in place.parts else place)
        for place in places
    ]


def _taken_apart(pattern: Path) -> tuple[Path, str]:
    """The folders that a pattern begins with, and the rest.

    What is there by that name is no wildcard, so that a folder may be called `scans[1]`.
    """
    parts = pattern.parts
    fixed = 0
    while fixed < len(parts) - 1 and Path(*parts[: fixed + 1]).is_dir():
        fixed += 1
    return Path(*parts[:fixed]), str(Path(*parts[fixed:]))


def _refuse_results_among_inputs(out: Path, base: Path) -> None:
    place, pictures = out.resolve(), base.resolve()
    if place == pictures or place in pictures.parents:
        raise InputError(
            f"results in {out} would lie among the pictures of {base} and may replace them; "
            "name another folder with -o"
        )


def _refuse_unwritable_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a} is a name that is not UTF-8; rename it") from error
