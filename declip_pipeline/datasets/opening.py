"""Opening of a dataset ready for extraction: listed, paired, scanned, and checked."""

from collections.abc import Callable, Iterable
from pathlib import Path

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.counterparts import (
    Compared,
    compare_with_real,
    polarity_problems,
    spread,
    votes,
)
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.findings import large_share_problems
from declip_pipeline.datasets.layouts import AUTO, list_dataset
from declip_pipeline.datasets.samples import FAKE
from declip_pipeline.datasets.scan import in_threads, scan_dataset
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_mask

COMPARED_PER_GROUP = 8
"""Fakes of each generator and split whose polarity is compared with real images."""
MASKS_PER_GENERATOR = 50
"""Masks of each generator whose share of fake pixels is measured where nothing else can tell."""


def open_dataset(
    path: str | Path,
    *,
    layout: str = AUTO,
    name: str | None = None,
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    assign_splits: tuple[int, int, int] | None = None,
    splits: Iterable[str] | str | None = None,
    generators: Iterable[str] | str | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    notice: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Open a dataset, keep the splits and generators asked for, scan its files and check them.

    Where `fake_is_white` is None, some fakes of each generator and split are also compared with the
    real images that they were made from.

    Example:
        >>> dataset = open_dataset("DATA", splits=["train", "valid"])
        >>> len(dataset), dataset.generators

    Args:
        path: A folder in one of the known layouts, a folder of images without masks, or a list
            (.json, .csv).
        layout: One of `LAYOUTS`; "auto" recognises each of the others.
        name: Name of the dataset. Default: that of the folder, or of the list without its suffix.
        fake_is_white: Whether white pixels of the masks are fake. None takes the layout's own:
            black for Dolos, white for all others.
        allow_unpaired: Leave out what has no partner, and list it in `unpaired`.
        assign_splits: Percents of train, valid and test, for a dataset without splits.
        splits: Splits to keep; None for all.
        generators: Generators to keep ("real" is one); None for all.
        max_megapixels: Limit of an image or mask that is decoded for the checks.
        notice: Called with a line for each generator whose masks call most of the pixels fake
            where no real images prove it.
        progress: Called with the number of files read and of all.

    Returns:
        The dataset with the size and SHA-256 of every file in its samples.

    Raises:
        UnknownNameError: For a layout, split or generator.
        InputError: For everything that would spoil a store: a path in no known layout, images and
            masks without a partner, a file that cannot be opened, a mask that is unreadable or not
            of its image's size, masks of the opposite polarity.
    """
    whole = list_dataset(
        path,
        layout=layout,
        name=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        assign_splits=assign_splits,
    )
    dataset = scanned_dataset(
        whole.select(splits, generators), max_megapixels=max_megapixels, progress=progress
    )
    if fake_is_white is None:
        compared = compare_with_real(
            dataset,
            real=whole.samples,
            most_per_group=COMPARED_PER_GROUP,
            max_megapixels=max_megapixels,
        )
        for problem in polarity_problems(dataset, compared):
            raise InputError(f"{problem}; this is not checked where `fake_is_white` is passed")
        for problem in _large_shares(dataset, compared, max_megapixels):
            notice(f"problem: {problem}")
    return dataset


def scanned_dataset(
    dataset: Dataset,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Return a dataset with the size and SHA-256 of every file, sizes and polarity checked.

    One that has them already is returned as it is. Raises as `open_dataset` does.
    """
    if dataset.is_scanned:
        return dataset
    scan = scan_dataset(dataset, progress=progress)
    check_sizes(scan)
    check_polarity(scan.dataset, max_megapixels=max_megapixels)
    return scan.dataset


def _large_shares(dataset: Dataset, compared: Compared, max_megapixels: float) -> list[str]:
    """Return a line for each unproved generator whose masks call most pixels fake."""
    proved = {(g.source, g.generator) for g, found in compared.items() if sum(votes(found))}

    def share(row: int) -> float | None:
        try:
            return float(
                decode_mask(
                    dataset.root / str(dataset.samples[row].mask),
                    fake_is_white=dataset.fake_is_white,
                    max_megapixels=max_megapixels,
                ).mean()
            )
        except ImageError:
            return None

    problems = []
    fakes = dataset.samples.rows(label=FAKE)
    for (source, generator), rows in dataset.samples.rows_by(
        "source", "generator", rows=fakes
    ).items():
        if (source, generator) in proved:
            continue
        shares = in_threads(share, spread(rows.tolist(), MASKS_PER_GENERATOR))
        problems += large_share_problems(
            source,
            generator,
            [one for one in shares if one is not None],
            masks=len(rows),
            fake_is_white=dataset.fake_is_white,
        )
    return problems
