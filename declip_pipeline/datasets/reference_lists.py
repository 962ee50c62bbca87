"""Benchmarks whose images, masks and originals stand in a CSV file of their own: NIST16, SAGI-D.

- NIST16, the Nimble Challenge 2016 of NIST: reference/manipulation/NC2016-manipulation-ref.csv,
  whose columns are separated by "|"; ProbeFileName, ProbeMaskFileName, BaseFileName and IsTarget
  are read. Black marks the fake pixels. The folders of other tasks (removal, called remove by some,
  and splice) repeat its images and are left out. IMDL-BenCo reads it converted, as Tp/ and Gt/.
- SAGI-D (Giakoumoglou et al., ICCV 2025, arXiv 2502.06593): sagid.csv, with img_path, mask_path,
  src_path, split and inpainting_model; paths begin with sagid/, in or beside which readers of it
  keep the images. The project's page does not describe it; this is how published readers read it.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_files, stem_of
from declip_pipeline.datasets.sample import REAL_GENERATOR
from declip_pipeline.datasets.table import NEGATIVE, tabled_samples
from declip_pipeline.errors import InputError

NIST16_EXPECTED = (
    "the tree of NIST16, probe/ beside reference/manipulation/NC2016-manipulation-ref.csv"
)
NIST16_FAKE_IS_WHITE = False
SAGI_D_EXPECTED = "the folder of SAGI-D, with sagid.csv"
SAGI_D_FAKE_IS_WHITE = True

NIST16_LIST = "nc2016-manipulation-ref.csv"
SAGI_D_LIST = "sagid.csv"


@dataclass(frozen=True)
class _Row:
    image: str
    mask: str
    split: str
    generator: str
    scene: str


def read_nist16(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read the images of the manipulation task; the split is test, the generator "nist16".

    A forged image and the one that it was made from are a scene.

    Raises:
        InputError: For a missing list, other columns, and files that do not exist unless
            `allow_unpaired`.
    """
    file = _list_named(root, NIST16_LIST, NIST16_EXPECTED)
    needed = ("ProbeFileName", "ProbeMaskFileName", "BaseFileName", "IsTarget")
    top = file.parents[2]
    rows: dict[str, _Row] = {}
    for cells in _cells(file, "|", needed):
        image, base = cells["ProbeFileName"], cells["BaseFileName"]
        is_fake = cells["IsTarget"].upper() == "Y" and bool(cells["ProbeMaskFileName"])
        if cells["IsTarget"].upper() == "Y" and not is_fake:
            continue  # a target of another kind: nothing says which pixels are fake
        # The first line of an image counts, as for published readers.
        rows.setdefault(
            image,
            _Row(
                image,
                cells["ProbeMaskFileName"] if is_fake else NEGATIVE,
                "test",
                "nist16" if is_fake else REAL_GENERATOR,
                stem_of(base or image).rpartition("/")[2],
            ),
        )
    return _dataset(file, top, [*rows.values()], name, fake_is_white, allow_unpaired)


def read_sagi_d(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read the images of sagid.csv in its splits; generators are its inpainting models.

    An inpainted image and its original are a scene.

    Raises:
        InputError: As `read_nist16`.
    """
    file = _list_named(root, SAGI_D_LIST, SAGI_D_EXPECTED)
    needed = ("img_path", "mask_path", "src_path", "split", "inpainting_model")
    inner = file.parent / "sagid"
    top = inner if inner.is_dir() else file.parent
    rows: dict[str, _Row] = {}
    for cells in _cells(file, ",", needed):
        image, mask, original = (
            cells[column].replace("\\", "/").removeprefix("sagid/")
            for column in ("img_path", "mask_path", "src_path")
        )
        scene = f"{cells['split']}/{stem_of(original)}"
        rows[image] = _Row(image, mask, cells["split"], cells["inpainting_model"].lower(), scene)
        if original:
            rows.setdefault(
                original, _Row(original, NEGATIVE, cells["split"], REAL_GENERATOR, scene)
            )
    return _dataset(file, top, [*rows.values()], name, fake_is_white, allow_unpaired)


def is_nist16(root: Path) -> bool:
    """Return whether `root` holds the list of NIST16."""
    return _find(root, NIST16_LIST) is not None


def is_sagi_d(root: Path) -> bool:
    """Return whether `root` holds the list of SAGI-D."""
    return _find(root, SAGI_D_LIST) is not None


def _find(root: Path, name: str) -> Path | None:
    found = [path for path in list_files(root).others if path.lower().rpartition("/")[2] == name]
    return root / found[0] if found else None


def _list_named(root: Path, name: str, expected: str) -> Path:
    file = _find(root, name)
    if file is None:
        raise InputError(f"no {name} found under {root}; expected {expected}")
    return file


def _cells(file: Path, separator: str, needed: Sequence[str]) -> list[Mapping[str, str]]:
    """Return the rows of a list, by the names of its columns."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, delimiter=separator)
            lacking = [column for column in needed if column not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(
                    f"{file} has no column {', '.join(lacking)} "
                    f"({', '.join(reader.fieldnames or ())[:80]}); expected {', '.join(needed)}"
                )
            return [{column: row[column] or "" for column in needed} for row in reader]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not CSV in UTF-8 ({error})") from error


def _dataset(
    file: Path,
    top: Path,
    rows: Sequence[_Row],
    name: str,
    fake_is_white: bool,
    allow_unpaired: bool,
) -> Dataset:
    columns = {
        column: [getattr(row, column) for row in rows]
        for column in ("image", "mask", "split", "generator", "scene")
    }
    place, samples, left_out = tabled_samples(
        columns,
        folder=top,
        name=name,
        table=str(file),
        unit="row",
        relative_to=str(top),
        allow_missing=allow_unpaired,
    )
    return Dataset(name, place, fake_is_white, samples, left_out)
