"""Dataset: the samples of one folder, list or table, with where their files lie."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from declip_pipeline.datasets.left_out import LeftOut
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.table import columns_of, tabled_samples
from declip_pipeline.errors import InputError

LONGEST_NAME = 100


@dataclass(frozen=True)
class Dataset:
    """Images with what is known of them, sorted by id; paths are relative to `root`.

    `open_dataset` makes one of a folder or a list, `from_table` of a table.

    Example:
        >>> rows = [{"image": "a.jpg", "mask": "a.png"}, {"image": "b.jpg", "mask": None}]
        >>> dataset = Dataset.from_table(rows, root="photos")

    Args:
        name: Names the folder of the dataset's stores.
        root: Folder that holds all images and masks.
        fake_is_white: Whether white pixels of the mask files are fake; otherwise black ones are.
        samples: One row an image; sorted by id on construction.
        unpaired: Paths that were left out: files without a partner (only where that was allowed)
            and folders of wholly generated images, which have no masks.
        left_out: Account of everything else below a dataset's folder that was not taken, by kind.

    Raises:
        InputError: For an id that occurs twice.
    """

    name: str
    root: Path
    fake_is_white: bool
    samples: Samples
    unpaired: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {len(self.samples)} images below {self.root}>"

    def __post_init__(self) -> None:
        order = self.samples.by_id()
        if np.any(order[1:] < order[:-1]):
            object.__setattr__(self, "samples", self.samples.take(order))
        _refuse_same_id(self.samples)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        root: str | Path = ".",
        name: str | None = None,
        fake_is_white: bool = True,
    ) -> "Dataset":
        """Build a dataset from a table of one's own; no image is opened.

        Columns; only `image` is needed, and an empty cell stands for the default:

        - `image`: path, absolute or relative to `root`.
        - `mask`: path; empty or "Negative" where there is none.
        - `label`: 1 fake, 0 real, -1 unknown. Default: 1 with a mask; without one 0, or -1 in a
          table that has no column `mask`.
        - `split`: "train", "valid" (or "val"), "test", or "all". Default: "all".
        - `generator`: method that made the fake. Default: `name`; "real" of a real image,
          "unknown" of one with label -1.
        - `source`: default `name`.
        - `scene`: the same for an image and all that was forged of it. Default: `id`.
        - `id`: unique. Default: the image's path below the root, without suffix.

        Args:
            table: pandas DataFrame, Arrow table, list of dicts, or dict of columns.
            root: Folder that relative paths start from. Where files lie outside it, the dataset's
                root is the nearest folder that holds them all.
            name: Name of the dataset. Default: the name of the folder `root`.
            fake_is_white: Whether white pixels of the masks are fake; otherwise black ones are.

        Raises:
            InputError: For missing or unknown columns, cells of another type, an id or an image
                that occurs twice, a label that contradicts the mask, and files that do not exist.
        """
        folder = Path(root).absolute()
        if name is None:
            name = folder.name or folder.resolve().name
        require_usable_name(name)
        found, samples, _ = tabled_samples(columns_of(table), folder=folder, name=name)
        return cls(name, found, fake_is_white, samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that occur, sorted."""
        return self.samples.names("split")

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of the generators that occur ("real" and "unknown" among them), sorted."""
        return self.samples.names("generator")

    @property
    def is_scanned(self) -> bool:
        """Return whether the samples have the hashes and sizes of their files."""
        return bool(self.samples.table.column("image_sha256").null_count == 0)

    def select(
        self,
        splits: Iterable[str] | str | None = None,
        generators: Iterable[str] | str | None = None,
    ) -> "Dataset":
        """Return the dataset with the samples of the named splits and generators alone.

        None takes all.

        Raises:
            UnknownNameError: For a name that does not occur, listing those that do.
            InputError: For splits and generators that do not occur together.
        """
        kept = {"split": self._known("split", splits)}
        kept["generator"] = self._known("generator", generators)
        rows = self.samples.rows(splits=kept["split"], generators=kept["generator"])
        if len(rows) == len(self):
            return self
        if not len(rows):
            raise InputError(
                f"no image of generator {_listed(kept['generator'])} is in split "
                f"{_listed(kept['split'])}; {self._generators_of_splits()}"
            )
        return replace(self, samples=self.samples.take(rows))

    def _known(self, column: str, names: Iterable[str] | str | None) -> tuple[str, ...]:
        if names is None:
            return self.samples.names(column)
        asked = (names,) if isinstance(names, str) else tuple(sorted(set(names)))
        self.samples.require_names(column, asked)
        return asked

    def _generators_of_splits(self) -> str:
        """Return a text of each split's generators, for messages."""
        found: dict[str, list[str]] = {}
        for split, generator in self.samples.rows_by("split", "generator"):
            found.setdefault(split, []).append(generator)
        return "; ".join(f"{split} has {_listed(names)}" for split, names in found.items())


def require_usable_name(name: str) -> None:
    """Raise `InputError` for a name that could lead a store's folder elsewhere."""
    fits = 1 <= len(name) <= LONGEST_NAME and name.isprintable() and name.strip()
    if not fits or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"name {name[:LONGEST_NAME]!a} of the dataset cannot be used; expected 1 to "
            f"{LONGEST_NAME} characters without / and \\, such as celebahq"
        )


def _refuse_same_id(samples: Samples) -> None:
    ids = samples.table.column("id")
    same = np.flatnonzero(np.asarray(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1)))))
    if len(same):
        one, other = samples[same[0]], samples[same[0] + 1]
        raise InputError(
            f"two samples have the id {one.id} ({one.image} and {other.image}); "
            "give each image its own name"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
