"""Matching of files of maps and images: by name, never by order."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from declip_pipeline.datasets.listing import stem_of
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError


@dataclass(frozen=True)
class MatchedMaps:
    """Files of maps by the images that they are of.

    Attributes:
        map_of: File of each image that has a map, by the image's id.
        extra: Files whose name is that of no known image, sorted.
    """

    map_of: dict[str, str]
    extra: tuple[str, ...]


def match_maps(files: Sequence[str], images: Samples, known: Samples) -> MatchedMaps:
    """Find the map of each image.

    A file is an image's whose whole path it ends in, without suffix or with the image's own
    (`out/test/a.png` and `test/a.jpg.npz` of `test/a.jpg`). Of other images it is enough that the
    last part is the same; where several images have that name, the folders above decide, from the
    last one up.

    Args:
        files: Posix paths of the maps, relative to their folder.
        images: Whole images that are evaluated.
        known: All whole images of the data, these among them.

    Raises:
        InputError: For a file that may be of two images, or two files that may be of one, naming
            both.
    """
    candidates, everything = _Candidates(images), _Candidates(known)
    whole: list[tuple[str, list[str]]] = []
    rest: list[tuple[str, list[str]]] = []
    extra = []
    for file in sorted(files):
        parts = stem_of(file).split("/")
        own, other = candidates.longest(parts), everything.longest(parts)
        if not other:
            extra.append(file)
        elif own == other:  # else it is another image's, that is not evaluated
            (whole if candidates.is_whole(parts) else rest).append((file, parts))
    map_of: dict[str, str] = {}
    for some in (whole, rest):
        claims: dict[str, list[tuple[int, str]]] = {}
        for file, parts in some:
            found = candidates.nearest(file, parts, leaving_out=map_of)
            if found is None:
                extra.append(file)
            else:
                claims.setdefault(found[1], []).append((found[0], file))
        for name, claimed in claims.items():
            chosen = _chosen(name, claimed)
            map_of[name] = chosen
            extra += [file for _, file in claimed if file != chosen]
    return MatchedMaps(map_of, tuple(sorted(extra)))


class _Candidates:
    """Images by the last part of their paths."""

    def __init__(self, images: Samples) -> None:
        self._ids = images.ids
        self._paths = _paths(images)
        self._by_name: dict[str, list[int]] = {}
        for number, own in enumerate(self._paths):
            for last in {path[-1] for path in own}:
                self._by_name.setdefault(last, []).append(number)

    def longest(self, parts: Sequence[str]) -> int:
        """Return how many last parts a file's path shares with an image's at most."""
        return max(self._shared(parts).values(), default=0)

    def is_whole(self, parts: Sequence[str]) -> bool:
        """Return whether a file ends in the whole path of an image."""
        return any(
            list(parts[-len(path) :]) == path
            for number in self._by_name.get(parts[-1], [])
            for path in self._paths[number]
        )

    def nearest(
        self, file: str, parts: Sequence[str], leaving_out: Container[str]
    ) -> tuple[int, str] | None:
        """Return the image that shares most of a file's path, and how many parts they share.

        None where all images of the name are left out. Raises `InputError` for several.
        """
        shared = {
            number: count
            for number, count in self._shared(parts).items()
            if self._ids[number] not in leaving_out
        }
        if not shared:
            return None
        longest = max(shared.values())
        found = [self._ids[number] for number, count in shared.items() if count == longest]
        if len(found) > 1:
            raise InputError(
                f"the map {file} may be of {found[0]} or of {found[1]}; lay the maps out in "
                "folders as the images are"
            )
        return longest, found[0]

    def _shared(self, parts: Sequence[str]) -> dict[int, int]:
        """Return how many last parts a file's path shares with those of images of its name."""
        return {
            number: max(_in_common(parts, path) for path in self._paths[number])
            for number in self._by_name.get(parts[-1], [])
        }


def _chosen(name: str, claims: Sequence[tuple[int, str]]) -> str:
    """Return the file that shares most of an image's path. Raises `InputError` for several."""
    longest = max(count for count, _ in claims)
    files = [file for count, file in claims if count == longest]
    if len(files) > 1:
        raise InputError(
            f"two maps may be of the image {name}, {files[0]} and {files[1]}; remove one, or lay "
            "the maps out in folders as the images are"
        )
    return files[0]


def _paths(images: Samples) -> list[list[list[str]]]:
    """Return the parts of each image's paths: its id, and its file without and with suffix."""
    return [
        [text.split("/") for text in dict.fromkeys((name, stem_of(image), image))]
        for name, image in zip(images.ids, images.strings("image"), strict=True)
    ]


def _in_common(parts: Sequence[str], path: Sequence[str]) -> int:
    """Return how many last parts of two paths are the same."""
    count = 0
    for one, other in zip(reversed(parts), reversed(path), strict=False):
        if one != other:
            break
        count += 1
    return count
