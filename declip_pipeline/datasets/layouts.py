"""Layouts: how datasets lie on disk, which of them a path has, and its samples."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from declip_pipeline.datasets import autosplice, dolos, lists, parallel, unmasked
from declip_pipeline.datasets.dataset import Dataset, require_usable_name
from declip_pipeline.datasets.left_out import left_out_of
from declip_pipeline.datasets.listing import list_images
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.splits import assign_splits as assign
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.options import LayoutName

AUTO = "auto"


@dataclass(frozen=True)
class _Layout:
    """Layout: functions that recognise and read it, and its description."""

    recognises: Callable[[Path], bool]
    read: Callable[..., Dataset]
    fake_is_white: bool
    expected: str
    is_file: bool = False


_LAYOUTS: dict[str, _Layout] = {
    # In this order: a generator's folder of Dolos looks like parallel folders from inside, and so
    # do AutoSplice (by its Mask) and COCO-SD; a folder of images alone is what is none of these.
    "dolos": _Layout(dolos.is_dolos, dolos.read_dolos, dolos.FAKE_IS_WHITE, dolos.EXPECTED),
    "autosplice": _Layout(
        autosplice.is_autosplice,
        autosplice.read_autosplice,
        autosplice.FAKE_IS_WHITE,
        autosplice.EXPECTED,
    ),
    "coco-sd": _Layout(
        parallel.is_coco_sd,
        parallel.read_coco_sd,
        parallel.FAKE_IS_WHITE,
        parallel.COCO_SD_EXPECTED,
    ),
    "tp-gt": _Layout(
        parallel.is_tp_gt, parallel.read_tp_gt, parallel.FAKE_IS_WHITE, parallel.TP_GT_EXPECTED
    ),
    "folders": _Layout(
        parallel.is_folders,
        parallel.read_folders,
        parallel.FAKE_IS_WHITE,
        parallel.FOLDERS_EXPECTED,
    ),
    "images": _Layout(
        unmasked.is_unmasked, unmasked.read_unmasked, unmasked.FAKE_IS_WHITE, unmasked.EXPECTED
    ),
    "json": _Layout(
        lambda path: path.suffix.lower() == ".json",
        lists.read_json_list,
        lists.FAKE_IS_WHITE,
        lists.JSON_EXPECTED,
        is_file=True,
    ),
    "csv": _Layout(
        lambda path: path.suffix.lower() == ".csv",
        lists.read_csv_list,
        lists.FAKE_IS_WHITE,
        lists.CSV_EXPECTED,
        is_file=True,
    ),
}

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
"""Values of `layout`: "auto", and the names of the layouts."""


def list_dataset(
    path: str | Path,
    *,
    layout: str = AUTO,
    name: str | None = None,
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    assign_splits: tuple[int, int, int] | None = None,
) -> Dataset:
    """List the images and masks of a dataset; no image is opened.

    Args:
        path: A folder, or the file of a list.
        layout: One of `LAYOUTS`; "auto" recognises each of the others.
        name: Name of the dataset, 1 to 100 printable characters, no path. Default: that of the
            folder, or of the file without its suffix.
        fake_is_white: Whether white pixels of the masks are fake. None takes the layout's own:
            black for Dolos, white for all others.
        allow_unpaired: Leave out what has no partner, and list it in `unpaired`.
        assign_splits: Percents of train, valid and test, for a dataset without splits.

    Raises:
        UnknownNameError: For a layout.
        InputError: For a path that has no such layout, and for images and masks without a partner.
    """
    if name is not None:
        require_usable_name(name)
    root = _root(Path(path))
    layout = recognise_layout(path, layout)
    chosen = _LAYOUTS[layout]
    if name is None:
        name = root.stem if chosen.is_file else root.name
    dataset = chosen.read(
        root,
        name=name,
        fake_is_white=chosen.fake_is_white if fake_is_white is None else fake_is_white,
        allow_unpaired=allow_unpaired,
    )
    if not len(dataset):
        raise InputError(
            f"no image under {path} has a mask of its name; it holds "
            f"{count_and_names('file', dataset.unpaired)} without a partner; expected "
            f"{chosen.expected}, or a .csv or .json list of which mask belongs to which image"
        )
    if not chosen.is_file:
        masks = dataset.samples.table.column("mask").drop_null().to_pylist()
        taken = [*dataset.samples.strings("image"), *masks]
        left_out = left_out_of(root, taken, accounted=dataset.unpaired, layout=layout)
        dataset = replace(dataset, left_out=left_out)
    if assign_splits is None:
        return dataset
    return replace(dataset, samples=assign(dataset.samples, assign_splits))


def recognise_layout(path: str | Path, layout: str = AUTO) -> str:
    """Return the name of the layout of `path`: the given one, or with "auto" the recognised one.

    Raises:
        UnknownNameError: For a layout.
        InputError: For a path in no known layout, or a file where the layout is of folders.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    root = _root(Path(path))
    if layout == AUTO:
        return _recognised(root)
    chosen = _LAYOUTS[layout]
    if chosen.is_file == root.is_dir():
        kind = "folder" if root.is_dir() else "file"
        raise InputError(f"{path} is a {kind}; layout {layout} is {chosen.expected}")
    return layout


def _root(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist; expected the folder of a dataset, or its list")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path} is no regular file; expected a list in a file")
    # Links keep their names, which is what people name datasets by; "." and ".." have none.
    return path.absolute() if path.name not in ("", "..") else path.resolve()


def _recognised(root: Path) -> str:
    layouts = {name: one for name, one in _LAYOUTS.items() if one.is_file != root.is_dir()}
    for name, layout in layouts.items():
        if layout.recognises(root):
            return name
    expected = ", or ".join(layout.expected for layout in layouts.values())
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected {expected}, or a dataset's folder")
    count = len(list_images(root))
    if not count:
        raise InputError(f"no images found under {root}; expected {expected}")
    raise InputError(
        f"{root} holds {count} image{'s' if count > 1 else ''} in no known layout; "
        f"expected {expected}"
    )
