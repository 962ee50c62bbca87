"""A dataset fit to be extracted: listed, paired, checked for sizes and polarity."""

from functools import partial
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.layouts import AUTO, open_dataset
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, image_size
from declip_pipeline.images.masks import decode_mask


def open_checked_dataset(
    path: Path,
    *,
    layout: str = AUTO,
    name: str | None = None,
    fake_is_white: bool | None = None,
    allow_unpaired: bool = False,
    assign_splits: tuple[int, int, int] | None = None,
    splits: list[str] | None = None,
    generators: list[str] | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> tuple[Manifest, np.ndarray]:
    """Open a dataset, keep the splits and generators asked for, and check it.

    Returns the manifest and its pictures' sizes, (N, 2) int32, height and width in pixels. A
    mask of more than `max_megapixels` is not decoded for the check of polarity. Raises
    `InputError` for all that would spoil a store: see `open_dataset` and `datasets.checks`.
    """
    manifest = open_dataset(
        path,
        layout=layout,
        name=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        assign_splits=assign_splits,
    ).select(splits, generators)
    sizes = check_sizes(manifest, read_size=image_size)
    check_polarity(
        manifest,
        read_mask=partial(
            decode_mask, fake_is_white=manifest.fake_is_white, max_megapixels=max_megapixels
        ),
    )
    return manifest, sizes
