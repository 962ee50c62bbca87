"""Layouts: how datasets lie on disk, which of them a path has, and its samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from declip_pipeline.datasets import (
    autosplice,
    benchmark_trees,
    dolos,
    lists,
    opensdi,
    parallel,
    parquet,
    parquet_table,
    reference_lists,
    unmasked,
)
from declip_pipeline.datasets.contents import file_of
from declip_pipeline.datasets.dataset import Dataset, require_usable_name
from declip_pipeline.datasets.left_out import left_out_of
from declip_pipeline.datasets.listing import list_files, list_images
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.splits import assign_splits as assign
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.options import LayoutName

AUTO = "auto"


@dataclass(frozen=True)
class _Layout:
    """Layout: functions that recognise and read it, and its description.

    Attributes:
        recognises: Called with a path, says whether this layout is meant.
        read: Reads the samples.
        fake_is_white: Polarity of the masks.
        expected: Description, for errors.
        place: What a dataset in this layout is.
        is_published: One benchmark's tree, and no general form.
        use: How the field's protocols use the benchmark; "" where none is known.
        list_name: Name of the benchmark's own list, in lower case; "" without one.
    """

    recognises: Callable[[Path], bool]
    read: Callable[..., Dataset]
    fake_is_white: bool
    expected: str
    place: Literal["folder", "file", "either"] = "folder"
    is_published: bool = False
    use: str = ""
    list_name: str = ""

    def takes(self, root: Path) -> bool:
        """Return whether a folder or a file can be in this layout."""
        return self.place == "either" or (self.place == "folder") == root.is_dir()


_USES = {
    "casia1": "tested on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
    "casia2": "trained on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
    "columbia": "tested on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
    "coverage": "tested on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
    "imd2020": "tested on in MVSS-Net's protocol, trained on in CAT-Net's (IMDL-BenCo)",
    "cocoglide": "tested on in TruFor's evaluation",
    "defacto": "",
    "tgif": "training, validation and testing as published",
}


def _tree(layout: str) -> _Layout:
    return _Layout(
        partial(benchmark_trees.is_tree, layout=layout),
        partial(benchmark_trees.read_tree, layout=layout),
        benchmark_trees.FAKE_IS_WHITE,
        benchmark_trees.TREES[layout].expected,
        is_published=True,
        use=_USES[layout],
    )


_LAYOUTS: dict[str, _Layout] = {
    # In this order: a generator's folder of Dolos looks like parallel folders from inside, and so
    # do AutoSplice (by its Mask), COVERAGE, CASIA and COCO-SD; a folder of images alone is what is
    # none of these.
    "dolos": _Layout(
        dolos.is_dolos,
        dolos.read_dolos,
        dolos.FAKE_IS_WHITE,
        dolos.EXPECTED,
        is_published=True,
        use="trained and tested on in DeCLIP's tables",
    ),
    "autosplice": _Layout(
        autosplice.is_autosplice,
        autosplice.read_autosplice,
        autosplice.FAKE_IS_WHITE,
        autosplice.EXPECTED,
        is_published=True,
        use="tested on in DeCLIP's tables",
    ),
    **{layout: _tree(layout) for layout in benchmark_trees.TREES},
    "nist16": _Layout(
        reference_lists.is_nist16,
        reference_lists.read_nist16,
        reference_lists.NIST16_FAKE_IS_WHITE,
        reference_lists.NIST16_EXPECTED,
        is_published=True,
        use="tested on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
        list_name=reference_lists.NIST16_LIST,
    ),
    "sagi-d": _Layout(
        reference_lists.is_sagi_d,
        reference_lists.read_sagi_d,
        reference_lists.SAGI_D_FAKE_IS_WHITE,
        reference_lists.SAGI_D_EXPECTED,
        is_published=True,
        use="train, val and test as published",
        list_name=reference_lists.SAGI_D_LIST,
    ),
    "coco-sd": _Layout(
        parallel.is_coco_sd,
        parallel.read_coco_sd,
        parallel.FAKE_IS_WHITE,
        parallel.COCO_SD_EXPECTED,
        is_published=True,
        use="trained on in DeCLIP's tables",
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
    "opensdi": _Layout(
        opensdi.is_opensdi,
        opensdi.read_opensdi,
        opensdi.FAKE_IS_WHITE,
        opensdi.EXPECTED,
        place="either",
        is_published=True,
        use="trained on sd15, tested on five models; published localization is of the local edits",
    ),
    "parquet": _Layout(
        parquet.is_parquet,
        parquet.read_parquet,
        parquet.FAKE_IS_WHITE,
        parquet_table.EXPECTED,
        place="either",
    ),
    "images": _Layout(
        unmasked.is_unmasked, unmasked.read_unmasked, unmasked.FAKE_IS_WHITE, unmasked.EXPECTED
    ),
    "json": _Layout(
        lambda path: path.suffix.lower() == ".json",
        lists.read_json_list,
        lists.FAKE_IS_WHITE,
        lists.JSON_EXPECTED,
        place="file",
    ),
    "csv": _Layout(
        lambda path: path.suffix.lower() == ".csv",
        lists.read_csv_list,
        lists.FAKE_IS_WHITE,
        lists.CSV_EXPECTED,
        place="file",
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
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """List the images and masks of a dataset; no image is opened.

    Args:
        path: A folder, the file of a list, or a Parquet file.
        layout: One of `LAYOUTS`; "auto" recognises each of the others.
        name: Name of the dataset, 1 to 100 printable characters, no path. Default: that of the
            folder, or of the file without its suffix.
        fake_is_white: Whether white pixels of the masks are fake. None takes the layout's own:
            black for Dolos and NIST16, white for all others.
        allow_unpaired: Leave out what has no partner, and list it in `unpaired`.
        assign_splits: Percents of train, valid and test, see `splits.assign_splits`.
        columns: Names of the columns of Parquet files by what they hold, where they are not
            recognised; see `parquet_table.NAMES_OF_COLUMNS`.

    Raises:
        UnknownNameError: For a layout.
        InputError: For a path that has no such layout, and for images and masks without a partner.
    """
    if name is not None:
        require_usable_name(name)
    root = _root(Path(path))
    layout = recognise_layout(path, layout)
    chosen = _LAYOUTS[layout]
    if columns and layout not in ("parquet", "opensdi"):
        raise InputError(f"`columns` are of Parquet files alone; {path} is in layout {layout}")
    if name is None:
        name = root.name if root.is_dir() else root.stem
    dataset = chosen.read(
        root,
        name=name,
        fake_is_white=chosen.fake_is_white if fake_is_white is None else fake_is_white,
        allow_unpaired=allow_unpaired,
        **({"columns": columns} if columns else {}),
    )
    if not len(dataset):
        raise InputError(
            f"no image under {path} has a mask of its name; it holds "
            f"{count_and_names('file', dataset.unpaired)} without a partner; expected "
            f"{chosen.expected}, or a .csv or .json list of which mask belongs to which image"
        )
    if root.is_dir():
        masks = dataset.samples.table.column("mask").drop_null().to_pylist()
        below = dataset.root.relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        taken, accounted = (
            {prefix + file_of(address) for address in addresses}
            for addresses in ([*dataset.samples.strings("image"), *masks], dataset.unpaired)
        )
        if chosen.list_name:
            others = list_files(root).others
            accounted |= {one for one in others if one.lower().endswith(chosen.list_name)}
        left_out = left_out_of(root, taken, accounted=accounted, layout=layout)
        dataset = replace(dataset, left_out=left_out)
    if assign_splits is None:
        return dataset
    return replace(dataset, samples=assign(dataset.samples, assign_splits))


def use_of(layout: str) -> str:
    """Return how the field's protocols use the benchmark of a layout; "" where none is known."""
    return _LAYOUTS[layout].use


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
    if not chosen.takes(root):
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
    layouts = {name: one for name, one in _LAYOUTS.items() if one.takes(root)}
    for name, layout in layouts.items():
        if layout.recognises(root):
            return name
    general = [one.expected for one in layouts.values() if not one.is_published]
    if root.is_dir():
        known = ", ".join(name for name, one in layouts.items() if one.is_published)
        general.append(f"the published tree of one of {known}")
    expected = ", or ".join(general)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected {expected}, or a dataset's folder")
    count = len(list_images(root))
    if not count:
        raise InputError(f"no images found under {root}; expected {expected}")
    raise InputError(
        f"{root} holds {count} image{'s' if count > 1 else ''} in no known layout; "
        f"expected {expected}"
    )
