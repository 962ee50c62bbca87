"""A dataset fit to be extracted: listed, paired, checked for sizes and polarity."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.counterparts import compare_with_real, polarity_problems
from declip_pipeline.datasets.layouts import AUTO, open_dataset, recognise_layout, scene_of
from declip_pipeline.datasets.manifest import FAKE, REAL, Manifest
from declip_pipeline.errors import InputError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_image, image_size
from declip_pipeline.images.masks import decode_mask

COMPARED_PER_GROUP = 8
"""Fakes of each generator and split whose polarity is held against real pictures."""


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
    mask of more than `max_megapixels` is not decoded for the check of polarity. Where
    `fake_is_white` is not said, some fakes of each generator and split are also compared with the
    real pictures that they were made from. Raises `InputError` for all that would spoil a store:
    see `open_dataset`, `datasets.checks` and `datasets.counterparts`.
    """
    whole = open_dataset(
        path,
        layout=layout,
        name=name,
        fake_is_white=fake_is_white,
        allow_unpaired=allow_unpaired,
        assign_splits=assign_splits,
    )
    manifest = whole.select(splits, generators)
    sizes = check_sizes(manifest, read_size=image_size)
    read_mask = partial(
        decode_mask, fake_is_white=manifest.fake_is_white, max_megapixels=max_megapixels
    )
    check_polarity(manifest, read_mask=read_mask)
    if fake_is_white is None:
        fakes = [sample for sample in manifest.samples if sample.label == FAKE]
        real = [sample for sample in whole.samples if sample.label == REAL]
        compared = compare_with_real(
            replace(manifest, samples=(*fakes, *real)),
            scene_of=scene_of(recognise_layout(path, layout)),
            read_picture=partial(decode_image, max_megapixels=max_megapixels),
            read_mask=read_mask,
            most_per_group=COMPARED_PER_GROUP,
        )
        for problem in polarity_problems(manifest, compared):
            raise InputError(f"{problem}; this is not checked where --polarity is passed")
    return manifest, sizes
