"""OpenSDI: fakes of five diffusion models and real photographs, in Parquet shards.

Source: Wang et al., CVPR 2025, arXiv 2503.19653; the dataset cards of nebula/OpenSDI_train and
nebula/OpenSDI_test on Hugging Face. Shards are named after the model (sd15-00000-of-00070), columns
are `key`, `image`, `mask` and `label` (0 real, 1 fake), and a key is such as
partial/sd15/fake/000651821.jpg: local edits are "partial". An image that is generated as a whole
has no mask. White marks the fake pixels.

The published figures of localization are of the local edits alone (the authors' evaluation takes
the keys with "partial" and "fake"); wholly generated images are generators of their own here.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from declip_pipeline.datasets.contents import whole_of
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.parquet import samples_of
from declip_pipeline.datasets.parquet_table import column_names, parquet_files, read_table
from declip_pipeline.datasets.sample import FAKE, REAL_GENERATOR, UNSPLIT
from declip_pipeline.errors import InputError

EXPECTED = "the shards of OpenSDI, sd15-00000-of-00070.parquet and the like"
FAKE_IS_WHITE = True
MODELS = ("sd15", "sd2", "sd3", "sdxl", "flux")
LOCAL = "partial"
ENTIRE = "-entire"
"""Ending of the generator of images that are not local edits."""

_COLUMNS = {"key", "image", "mask", "label"}
_SHARD = re.compile(rf"(?:.*/)?(?:{'|'.join(MODELS)})-\d+-of-\d+\.parquet", re.IGNORECASE)
_SPLIT = re.compile(r"opensdi[-_]?(train|test)", re.IGNORECASE)


def read_opensdi(
    root: Path,
    *,
    name: str,
    fake_is_white: bool,
    allow_unpaired: bool,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Read OpenSDI_train, OpenSDI_test, or a folder that holds both.

    The generator of a local edit is its model ("sd15"), that of other fakes goes on with -entire.
    The split is that of the last folder called OpenSDI_train or OpenSDI_test on the way to a shard;
    without one, there are no splits. Images of one number in their keys are one scene: numbers are
    those of the photographs, as far as keys show it, which no page says.

    Raises:
        InputError: For shards that cannot be read or have other columns.
    """
    if not is_opensdi(root):
        raise InputError(f"{root} is not OpenSDI; expected {EXPECTED}")
    top, table = read_table(root, columns=columns)
    rows = range(len(table.row))
    keys = table.texts["key"]
    masks: list[str | None] = []
    generators: list[str] = []
    splits: list[str] = []
    scenes: list[str] = []
    split_of = {file: _split(top, file) for file in dict.fromkeys(table.file)}
    for place in rows:
        path = PurePosixPath(keys[place])
        kind = path.parts[0] if path.parts else ""
        split = split_of[table.file[place]]
        splits.append(split)
        scenes.append(f"{split}/{kind}/{path.stem}" if path.parts else "")
        if table.label[place] != FAKE:
            masks.append(None)
            generators.append(REAL_GENERATOR)
            continue
        masks.append(
            table.address("mask", place)
            if table.has_mask[place]
            else whole_of(table.address("image", place), fake_is_white=fake_is_white)
        )
        generators.append(table.part[place].lower() + ("" if LOCAL in keys[place] else ENTIRE))
    samples = samples_of(
        root, table, rows, name=name, mask=masks, generator=generators, split=splits, scene=scenes
    )
    return Dataset(name, top, fake_is_white, samples)


def is_opensdi(root: Path) -> bool:
    """Return whether `root` holds shards of OpenSDI alone, with its columns."""
    if not root.is_dir():
        files = [root.name] if root.suffix else []
        top = root.parent
    else:
        try:
            top, files = parquet_files(root)
        except InputError:
            return False
    return bool(files) and all(map(_SHARD.fullmatch, files)) and _has_columns(top / files[0])


def _has_columns(file: Path) -> bool:
    try:
        return {*column_names(file)} >= _COLUMNS
    except InputError:  # that is for the reading to report
        return True


def _split(top: Path, file: str) -> str:
    found = _SPLIT.findall((top / file).as_posix())
    return found[-1].lower() if found else UNSPLIT
