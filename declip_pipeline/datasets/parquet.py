"""Parquet tables in Hugging Face's form: images and masks as bytes, in one file or many shards.

Source of the form: the documentation of Hugging Face's `datasets`: an image is a struct of `bytes`
and `path`, shards are called SPLIT-00000-of-00012.parquet, and the names of a class label stand in
the schema's metadata. Plain columns of bytes are read alike.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_files
from declip_pipeline.datasets.pairing import count_and_names
from declip_pipeline.datasets.parquet_table import SUFFIX, Table, is_named_so, read_table
from declip_pipeline.datasets.sample import (
    FAKE,
    REAL,
    REAL_GENERATOR,
    UNKNOWN,
    UNKNOWN_GENERATOR,
    UNSPLIT,
)
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import SPLIT_NAMES, split_named
from declip_pipeline.errors import InputError, UnknownNameError

FAKE_IS_WHITE = True


def read_parquet(
    root: Path,
    *,
    name: str,
    fake_is_white: bool,
    allow_unpaired: bool,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Read a .parquet file, or all in a folder and below it; no image is read.

    The split is that of a column, or of the shard's name or folder (train, validation, ...). Any
    other name of shards is their generator, as a column of generators is; otherwise it is `name`.
    Without a column of labels, rows with a mask are fake and those without are real. The mask of a
    row that is labelled real is not read.

    Args:
        root: A file or a folder.
        name: Default source, and default generator of fakes.
        fake_is_white: As in `Dataset`.
        allow_unpaired: Leave out rows that are labelled fake and have no mask.
        columns: Names of columns by what they hold, see `NAMES_OF_COLUMNS`; "none" for the mask
            where there are none.

    Raises:
        InputError: For a file that cannot be read, without a column of images or of masks, with
            labels of more kinds than real and fake, and for fakes without a mask unless
            `allow_unpaired`.
        UnknownNameError: For a column or a split.
    """
    top, table = read_table(root, columns=columns)
    fakes = np.asarray(table.label) == FAKE
    alone = np.flatnonzero(fakes & ~np.asarray(table.has_mask, bool)).tolist()
    unpaired = [table.address("image", place) for place in alone]
    if unpaired and not allow_unpaired:
        raise InputError(
            f"{root} holds {count_and_names('row', unpaired)} labelled fake without a mask; pass "
            "`allow_unpaired=True` to leave these out"
        )
    kept = sorted({*range(len(table.row))} - {*alone})
    samples = samples_of(
        root,
        table,
        kept,
        name=name,
        mask=[
            table.address("mask", place) if table.label[place] == FAKE else None for place in kept
        ],
        generator=[_generator(table, place, name) for place in kept],
        split=[_split(table, place) for place in kept],
        scene=None,
    )
    return Dataset(name, top, fake_is_white, samples, tuple(unpaired))


def is_parquet(root: Path) -> bool:
    """Return whether `root` is a .parquet file, or a folder with some and without image files."""
    if not root.is_dir():
        return root.suffix.lower() == SUFFIX
    listing = list_files(root)
    return not listing.images and any(map(is_named_so, listing.others))


def samples_of(
    root: Path,
    table: Table,
    kept: Sequence[int],
    *,
    name: str,
    mask: Sequence[str | None],
    generator: Sequence[str],
    split: Sequence[str],
    scene: Sequence[str] | None,
) -> Samples:
    """Return the samples of some rows of a table.

    Raises `InputError` where some have a split and others none.
    """
    unsplit = list(split).count(UNSPLIT)
    if 0 < unsplit < len(split):
        raise InputError(
            f"{root}: {unsplit} of {len(split)} rows have no split, such as those of "
            f"{table.file[kept[list(split).index(UNSPLIT)]]}; call its shards train, validation or "
            "test, or keep them in folders of these names"
        )
    ids = table.ids()
    scenes = [table.texts["scene"][place] for place in kept] if "scene" in table.texts else scene
    sources = table.texts.get("source")
    return Samples.from_columns(
        [table.address("image", place) for place in kept],
        id=[ids[place] for place in kept],
        mask=list(mask),
        split=list(split),
        generator=list(generator),
        source=[sources[place] or name for place in kept] if sources else name,
        label=[table.label[place] for place in kept],
        scene=None
        if scenes is None
        else [own or ids[place] for own, place in zip(scenes, kept, strict=True)],
    )


def _generator(table: Table, place: int, name: str) -> str:
    if table.label[place] == REAL:
        return REAL_GENERATOR
    if table.label[place] == UNKNOWN:
        return UNKNOWN_GENERATOR
    given = table.texts["generator"][place] if "generator" in table.texts else ""
    part = table.part[place]
    return given or (part if part and split_named(part) is None else name)


def _split(table: Table, place: int) -> str:
    if "split" in table.texts:
        given = table.texts["split"][place]
        known = UNSPLIT if given in ("", UNSPLIT) else split_named(given)
        if known is None:
            raise UnknownNameError(f"split in {table.file[place]}", given, SPLIT_NAMES)
        return known
    folder = PurePosixPath(table.file[place]).parent.name
    return split_named(table.part[place]) or split_named(folder) or UNSPLIT
