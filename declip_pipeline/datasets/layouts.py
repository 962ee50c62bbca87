"""Opens a data set in any of the known layouts, and tells which it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from declip_pipeline.datasets import (
    autosplice,
    coco_sd,
    csv_list,
    dolos,
    folders,
    json_list,
    tp_gt,
)
from declip_pipeline.datasets.listing import list_pictures
from declip_pipeline.datasets.manifest import Manifest, Sample
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
    is_file: bool = False
    scene_of: Callable[[Sample], str] = attrgetter("id")


_LAYOUTS = {
    # In this order: a generator's folder of Dolos looks like parallel folders from inside, and so
    # do AutoSplice (by its Mask) and COCO-SD.
    "dolos": _Layout(
        dolos.is_dolos,
        dolos.read_dolos,
        dolos.FAKE_IS_WHITE,
        dolos.EXPECTED,
        scene_of=dolos.scene_of,
    ),
    "autosplice": _Layout(
        autosplice.is_autosplice,
        autosplice.read_autosplice,
        autosplice.FAKE_IS_WHITE,
        autosplice.EXPECTED,
        scene_of=autosplice.scene_of,
    ),
    "coco-sd": _Layout(
        coco_sd.is_coco_sd, coco_sd.read_coco_sd, coco_sd.FAKE_IS_WHITE, coco_sd.EXPECTED
    ),
    "tp-gt": _Layout(tp_gt.is_tp_gt, tp_gt.read_tp_gt, tp_gt.FAKE_IS_WHITE, tp_gt.EXPECTED),
    "folders": _Layout(
        folders.is_folders, folders.read_folders, folders.FAKE_IS_WHITE, folders.EXPECTED
    ),
    "json": _Layout(
        lambda path: path.suffix.lower() == ".json",
        json_list.read_json_list,
        json_list.FAKE_IS_WHITE,
        json_list.EXPECTED,
        is_file=True,
    ),
    "csv": _Layout(
        lambda path: path.suffix.lower() == ".csv",
        csv_list.read_csv_list,
        csv_list.FAKE_IS_WHITE,
        csv_list.EXPECTED,
        is_file=True,
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
    """List the pictures and masks of a data set as one manifest; no picture is opened.

    `path` is a folder, or the file of a list. `layout` is "auto" (recognised) or one of `LAYOUTS`.
    `name` is by default that of the folder, or of the file without its suffix; 1 to 100 printable
    characters, no path.
    `fake_is_white` None takes the layout's own: black for Dolos, white for all others. What does
    not pair is an error unless `allow_unpaired`; then it is left out and listed in the manifest.
    `assign_splits` gives the percents of train, valid and test for a data set without splits;
    pictures made of one picture stay together.

    Raises `UnknownNameError` for a layout, else `InputError`, each in one line.
    """
    if name is not None:
        _refuse_bad_name(name)
    root = _root(path)
    chosen = _LAYOUTS[recognise_layout(path, layout)]
    if name is None:
        name = root.stem if chosen.is_file else root.name
    manifest = chosen.read(
        root,
        name=name,
        fake_is_white=chosen.fake_is_white if fake_is_white is None else fake_is_white,
        allow_unpaired=allow_unpaired,
    )
    if not manifest.samples:
        raise InputError(
            f"no picture under {path} has a mask of its name; expected {chosen.expected}"
        )
    if assign_splits is None:
        return manifest
    samples = assign(manifest.samples, assign_splits, scene_of=chosen.scene_of)
    return replace(manifest, samples=samples)


def recognise_layout(path: Path, layout: str = AUTO) -> str:
    """The name of the layout of `path`: the given one, or with "auto" that which it has.

    Raises `UnknownNameError` for a layout, else `InputError`, each in one line.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    root = _root(path)
    if layout == AUTO:
        return _recognised(root)
    chosen = _LAYOUTS[layout]
    if chosen.is_file == root.is_dir():
        kind = "folder" if root.is_dir() else "file"
        raise InputError(f"{path} is a {kind}; layout {layout} is {chosen.expected}")
    return layout


def scene_of(layout: str) -> Callable[[Sample], str]:
    """What tells which pictures of a layout show the same: a real one and the fakes made of it.

    Where a layout does not say so, every picture is a scene of its own.
    """
    return _LAYOUTS[layout].scene_of


def _root(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist; expected the folder of a data set, or its list")
    # Links keep their names, which is what people name data sets by; "." and ".." have none.
    return path.absolute() if path.name not in ("", "..") else path.resolve()


def _refuse_bad_name(name: str) -> None:
    """Folders and generators are named by it, so it must not lead elsewhere."""
    fits = 1 <= len(name) <= LONGEST_NAME and name.isprintable() and name.strip()
    if not fits or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"name {name[:LONGEST_NAME]!a} of the data set cannot be used; expected 1 to "
            f"{LONGEST_NAME} characters without / and \\, such as celebahq"
        )


def _recognised(root: Path) -> str:
    layouts = {name: one for name, one in _LAYOUTS.items() if one.is_file != root.is_dir()}
    for name, layout in layouts.items():
        if layout.recognises(root):
            return name
    expected = ", or ".join(layout.expected for layout in layouts.values())
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected {expected}, or a data set's folder")
    count = len(list_pictures(root))
    if not count:
        raise InputError(f"no pictures found under {root}; expected {expected}")
    raise InputError(
        f"{root} holds {count} picture{'s' if count > 1 else ''} in no known layout; "
        f"expected {expected}"
    )
