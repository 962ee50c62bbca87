"""A dataset fit to be extracted: listed, paired, checked for sizes and polarity."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.counterparts import (
    Compared,
    compare_with_real,
    polarity_problems,
    spread,
    votes,
)
from declip_pipeline.datasets.dataset_findings import large_share_problems
from declip_pipeline.datasets.layouts import AUTO, open_dataset, recognise_layout, scene_of
from declip_pipeline.datasets.manifest import FAKE, REAL, Manifest
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import (
    DEFAULT_MAX_MEGAPIXELS,
    decode_image,
    decode_mask,
    image_size,
)

COMPARED_PER_GROUP = 8
"""Fakes of each generator and split whose polarity is held against real pictures."""
MASKS_PER_GENERATOR = 50
"""Masks of each generator whose share of fake pixels is looked at where nothing else can tell."""


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
    notice: Callable[[str], None] = lambda line: None,
) -> tuple[Manifest, np.ndarray]:
    """Open a dataset, keep the splits and generators asked for, and check it.

    Returns the manifest and its pictures' sizes, (N, 2) int32, height and width in pixels. A
    mask of more than `max_megapixels` is not decoded for the check of polarity. Where
    `fake_is_white` is not said, some fakes of each generator and split are also compared with the
    real pictures that they were made from; of a generator whose fakes cannot be, `notice` is told
    in a line where some masks call most of the pixels fake. Raises `InputError` for all that would
    spoil a store: see `open_dataset`, `datasets.checks` and `datasets.counterparts`.
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
        for problem in _large_shares(manifest, compared, read_mask):
            notice(f"problem: {problem}")
    return manifest, sizes


def _large_shares(
    manifest: Manifest, compared: Compared, read_mask: Callable[[Path], np.ndarray]
) -> list[str]:
    """A line for each generator that nothing proves and whose masks call most pixels fake."""
    proved = {(g.source, g.generator) for g, found in compared.items() if sum(votes(found))}
    masks: dict[tuple[str, str], list[Path]] = {}
    for sample in manifest.samples:
        of = sample.source, sample.generator
        if sample.mask is not None and of not in proved:
            masks.setdefault(of, []).append(manifest.root / sample.mask)

    def share(mask: Path) -> float | None:
        try:
            return float(read_mask(mask).mean())
        except ImageError:
            return None

    problems = []
    with ThreadPoolExecutor() as threads:
        for (source, generator), paths in sorted(masks.items()):
            shares = list(threads.map(share, spread(paths, MASKS_PER_GENERATOR)))
            problems += large_share_problems(
                source,
                generator,
                [one for one in shares if one is not None],
                masks=len(paths),
                fake_is_white=manifest.fake_is_white,
            )
    return problems
