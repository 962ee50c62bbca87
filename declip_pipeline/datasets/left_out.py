"""Account of what lies in a dataset's folder and is not taken, by kind."""

import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from declip_pipeline.datasets.listing import IMAGE_SUFFIXES, list_files
from declip_pipeline.datasets.splits import KNOWN_SPLIT_FOLDERS, split_named

IRREGULAR = "pipes, devices and links that lead nowhere are not read"
NOT_READ = "of a type that is not read"
NO_SPLIT = f"its name is no split; known: {', '.join(KNOWN_SPLIT_FOLDERS)}"


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that are not taken.

    Attributes:
        what: The kind: "folder Au", "files .npz", "images".
        count: Number of files.
        example: Path of the first of them, relative to the dataset's root.
        reason: Why they are not taken.
    """

    what: str
    count: int
    example: str
    reason: str

    def __str__(self) -> str:
        count = f"{self.count} file{'s' if self.count > 1 else ''}"
        if self.what.startswith("folder "):
            what = f"{self.what} ({count})"
        else:
            kind = (
                self.what
                if self.count > 1
                else re.sub(r"^(image|file|irregular file)s", r"\1", self.what)
            )
            what = f"{self.count} {kind}"
        return f"left out: {what}, such as {self.example}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields by their names."""
        return asdict(self)


def left_out_of(
    root: Path, taken: Iterable[str], *, accounted: Collection[str] = (), layout: str = ""
) -> tuple[LeftOut, ...]:
    """Account for every file below a folder that is not taken, a `LeftOut` for each kind.

    A folder of which no file is taken is one kind; files beside those that are taken are of one
    kind by their suffix. What operating systems leave behind is no data.

    Args:
        root: The folder.
        taken: Paths of files that are taken, relative to it.
        accounted: Paths of files and folders that are reported elsewhere.
        layout: Name of the layout, in the reasons.

    Raises:
        InputError: As `list_files` does.
    """
    taken = set(taken)
    direct = {path.rpartition("/")[0] for path in (*taken, *accounted)}
    used = {folder for parent in direct for folder in _with_those_above(parent)}
    apart = {path for path in accounted if (root / path).is_dir()}
    gone = taken.union(accounted)
    listing = list_files(root)
    kinds: dict[tuple[str, str], list[str]] = {}
    not_of_layout = f"no part of layout {layout}" if layout else "not asked for"
    tops = {folder.partition("/")[0] for folder in direct}
    in_splits = bool(tops) and all(map(split_named, tops))
    for path in (*listing.images, *listing.others):
        if path in gone:
            continue
        folders = _with_those_above(path.rpartition("/")[0])
        if not apart.isdisjoint(folders):
            continue
        suffix = PurePosixPath(path).suffix.lower()
        unused = next((folder for folder in folders if folder not in used), None)
        if suffix not in IMAGE_SUFFIXES:
            key = (f"files {suffix}" if suffix else "files without a suffix", NOT_READ)
        elif unused is None:
            key = ("images", not_of_layout)
        else:
            is_no_split = in_splits and "/" not in unused
            key = (f"folder {unused}", NO_SPLIT if is_no_split else not_of_layout)
        kinds.setdefault(key, []).append(path)
    if listing.irregular:
        kinds["irregular files", IRREGULAR] = listing.irregular
    return tuple(
        LeftOut(what, len(paths), min(paths), reason)
        for (what, reason), paths in sorted(kinds.items())
    )


def _with_those_above(folder: str) -> list[str]:
    """Return a folder and those that it lies in, the outermost first; none for the root."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[: place + 1]) for place in range(len(parts))]
