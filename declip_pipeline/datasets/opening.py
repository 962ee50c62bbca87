"""Opening of a dataset ready for extraction: listed, paired, scanned, and checked."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from declip_pipeline.arguments import require_path, require_positive
from declip_pipeline.datasets.checks import (
    MASKS_PER_GROUP,
    GroupMasks,
    check_masks,
    check_usable,
    read_some_masks,
)
from declip_pipeline.datasets.counterparts import (
    Compared,
    Group,
    compare_with_real,
    polarity_problems,
    votes,
)
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.findings import large_share_problems
from declip_pipeline.datasets.layouts import AUTO, list_dataset
from declip_pipeline.datasets.sample import REAL, REAL_GENERATOR
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.errors import InputError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS

COMPARED_PER_GROUP = 8
"""Fakes of each generator and split whose polarity is compared with real images."""


def open_dataset(
    path: str | Path,
    *,
    layout: str = AUTO,
    name: str | None = None,
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    assign_splits: tuple[int, int, int] | None = None,
    columns: Mapping[str, str] | None = None,
    splits: Iterable[str] | str | None = None,
    generators: Iterable[str] | str | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Open a dataset, keep the splits and generators asked for, scan its files and check them.

    Some masks of each generator and split are read. Where `fake_is_white` is None, some fakes of
    each are also compared with the real images that they were made from. An image or mask that
    cannot be used, or a mask of another size, is for extraction to report as a failed row.

    Example:
        >>> dataset = open_dataset("DATA", splits=["train", "valid"])
        >>> len(dataset), dataset.generators

    Args:
        path: A folder in one of the known layouts, a folder of images without masks, a list
            (.json, .csv), or Parquet files.
        layout: One of `LAYOUTS`; "auto" recognises each of the others.
        name: Name of the dataset. Default: that of the folder, or of the list without its suffix.
        fake_is_white: Whether white pixels of the masks are fake. None takes the layout's own:
            black for Dolos and NIST16, white for all others.
        allow_unpaired: Leave out what has no partner, and list it in `unpaired`.
        assign_splits: Percents of train, valid and test, for a dataset without splits; with 0
            for test, a train split without a valid one is divided.
        columns: Names of the columns of Parquet files, as in {"image": "photo", "mask": "gt"},
            where they are not recognised.
        splits: Splits to keep; None for all.
        generators: Generators to keep ("real" is one, and real images are left out where it is not
            named); None for all.
        max_megapixels: Limit of an image or mask that is decoded for the checks.
        notice: Called with a line for what is unusual in the masks, such as values other than black
            and white, or most of the pixels fake where no real images prove it; and where
            `generators` leaves the real images out.
        progress: Called with the number of files read and of all.

    Returns:
        The dataset with the size and SHA-256 of every file in its samples.

    Raises:
        UnknownNameError: For a layout, split or generator.
        InputError: For everything that would spoil a store: a path in no known layout, images and
            masks without a partner, a file that cannot be opened, a generator and split without a
            mask that can be used, masks of the opposite polarity or of unclear values.
    """
    require_path(path, "a dataset", "the path of a folder or list")
    require_positive("max_megapixels", max_megapixels)
    whole = list_dataset(
        path,
        layout=layout,
        name=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        assign_splits=assign_splits,
        columns=columns,
    )
    selected = whole.select(splits, generators)
    line = _without_real(whole.select(splits), selected)
    if line:
        notice(line)
    dataset = _scanned(selected, progress)
    masks = read_some_masks(dataset, most_per_group=MASKS_PER_GROUP, max_megapixels=max_megapixels)
    lines = check_masks(
        masks,
        fake_is_white=dataset.fake_is_white,
        polarity_is_given=fake_is_white is not None,
    )
    for line in lines:
        notice(line)
    if fake_is_white is None:
        compared = compare_with_real(
            dataset,
            real=whole.samples,
            most_per_group=COMPARED_PER_GROUP,
            max_megapixels=max_megapixels,
        )
        for problem in polarity_problems(dataset, compared):
            raise InputError(f"{problem}; this is not checked where `fake_is_white` is passed")
        for problem in _large_shares(dataset, compared, masks):
            notice(f"problem: {problem}")
    return dataset


def scanned_dataset(
    dataset: Dataset,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Return a dataset with the size and SHA-256 of every file, and its masks checked.

    One that has them already is returned as it is. Raises as `open_dataset` does.
    """
    if dataset.is_scanned:
        return dataset
    dataset = _scanned(dataset, progress)
    masks = read_some_masks(dataset, most_per_group=MASKS_PER_GROUP, max_megapixels=max_megapixels)
    lines = check_masks(masks, fake_is_white=dataset.fake_is_white, polarity_is_given=True)
    for line in lines:
        notice(line)
    return dataset


def _without_real(whole: Dataset, selected: Dataset) -> str:
    """Return a line where a selection of generators has left out all real images, else ""."""
    count = len(whole.samples.rows(label=REAL))
    if not count or len(selected.samples.rows(label=REAL)):
        return ""
    names = ",".join([*selected.generators, REAL_GENERATOR])
    return (
        f"note: `generators` leaves out the {count} real images, which detection, verdicts and "
        f"false alarms need; to have them name {REAL_GENERATOR} too, as in `generators={names}`"
    )


def _scanned(dataset: Dataset, progress: Callable[[int, int], None]) -> Dataset:
    scan = scan_dataset(dataset, progress=progress)
    check_usable(scan)
    return scan.dataset


def _large_shares(
    dataset: Dataset, compared: Compared, masks: Mapping[Group, GroupMasks]
) -> list[str]:
    """Return a line for each unproved generator whose masks call most pixels fake."""
    proved = {(g.source, g.generator) for g, found in compared.items() if sum(votes(found))}
    unproved: dict[tuple[str, str], list[GroupMasks]] = {}
    for group, found in masks.items():
        if (group.source, group.generator) not in proved and not found.is_whole:
            unproved.setdefault((group.source, group.generator), []).append(found)
    return [
        problem
        for (source, generator), groups in unproved.items()
        for problem in large_share_problems(
            source,
            generator,
            [share for one in groups for share in one.shares],
            masks=sum(one.masks for one in groups),
            fake_is_white=dataset.fake_is_white,
        )
    ]
