"""Opens a data set in any of the known layouts, and tells which it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pipeline.datasets import dolos, folders
from declip_pipeline.datasets.listing import list_pictures
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.datasets.splits import assign_splits as assign
from declip_pipeline.errors import InputError, UnknownNameError

AUTO = "auto"
LONGEST_NAME = 100


@dataclass(frozen=True)
class _Layout:
    """How one layout is recognised and read."""

    recognises: Callable[[Path], bool]
    read: Callable[..., Manifest]
    fake_is_white: bool
    expected: str


_LAYOUTS = {
    # In this order: a generator's folder of Dolos looks like parallel folders from inside.
    "dolos": _Layout(dolos.is_dolos, dolos.read_dolos, dolos.FAKE_IS_WHITE, dolos.EXPECTED),
    "folders": _Layout(
        folders.is_folders, folders.read_folders, folders.FAKE_IS_WHITE, folders.EXPECTED
    ),
}

LAYOUTS: tuple[str, ...] = (AUTO, *_LAYOUTS)
"""What `open_dataset` takes for `layout`."""


def open_dataset(
    path: Path,
    *,
    layout: str = AUTO,
    name: str | None = None,
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    assign_splits: tuple[int, int, int] | None = None,
) -> Manifest:
    """List the pictures and masks under `path` as one manifest; no picture is opened.

    `layout` is "auto" (recognised), "dolos" or "folders". `name` is by default the folder's own;
    1 to 100 printable characters, no path.
    `fake_is_white` None takes the layout's own: black for Dolos, white for folders. What does not
    pair is an error unless `allow_unpaired`; then it is left out and listed in the manifest.
    `assign_splits` gives the percents of train, valid and test for a data set without splits.

    Raises `UnknownNameError` for a layout, else `InputError`, each in one line.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if name is not None:
        _refuse_bad_name(name)
    if not path.exists():
        raise InputError(f"{path} does not exist; expected the folder of a data set")
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; expected the folder of a data set")
    # Links keep their names, which is what people name data sets by; "." and ".." have none.
    root = path.absolute() if path.name not in ("", "..") else path.resolve()
    chosen = _LAYOUTS[_recognised(root) if layout == AUTO else layout]
    manifest = chosen.read(
        root,
        name=root.name if name is None else name,
        fake_is_white=chosen.fake_is_white if fake_is_white is None else fake_is_white,
        allow_unpaired=allow_unpaired,
    )
    if not manifest.samples:
        raise InputError(
            f"no picture under {root} has a mask of its name; expected {chosen.expected}"
        )
    if assign_splits is None:
        return manifest
    return replace(manifest, samples=assign(manifest.samples, assign_splits))


def _refuse_bad_name(name: str) -> None:
    """Folders and generators are named by it, so it must not lead elsewhere."""
    fits = 1 <= len(name) <= LONGEST_NAME and name.isprintable() and name.strip()
    if not fits or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"name {name[:LONGEST_NAME]!a} of the data set cannot be used; expected 1 to "
            f"{LONGEST_NAME} characters without / and \\, such as celebahq"
        )


def _recognised(root: Path) -> str:
    for name, layout in _LAYOUTS.items():
        if layout.recognises(root):
            return name
    expected = ", or ".join(layout.expected for layout in _LAYOUTS.values())
    count = len(list_pictures(root))
    if not count:
        raise InputError(f"no pictures found under {root}; expected {expected}")
    raise InputError(
        f"{root} holds {count} picture{'s' if count > 1 else ''} in no known layout; "
        f"expected {expected}"
    )
