"""Labelled images: samples with masks that maps are evaluated against."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.sample import FAKE, REAL
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_json


class LabelledImages(ABC):
    """Images with labels, splits, generators and masks: those of a store, or of a dataset's files.

    A row is an image, or a tile of one.

    Attributes:
        location: Where they lie.
        dataset: Name of the dataset.
        samples: Table of the images, in row order.
        failures: Reasons by the rows of images that could not be read.
    """

    location: str
    dataset: str
    samples: Samples
    failures: dict[int, str]

    @property
    def known(self) -> Samples:
        """All images of the data, those that are not evaluated among them."""
        return self.samples

    @property
    @abstractmethod
    def view(self) -> str:
        """Name of the view of the images."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Identity of the images, 64 hex digits."""

    @property
    @abstractmethod
    def has_masks(self) -> bool:
        """Return whether masks say which pixels are fake: not of unlabelled images."""

    @property
    @abstractmethod
    def root(self) -> Path | None:
        """Folder of the images' files; None where it is not recorded."""

    def read_thumbnails(self, rows: np.ndarray) -> np.ndarray | None:
        """Return small copies of rows, (len(rows), 128, 128, 3) uint8 RGB; None without any."""
        return None

    @abstractmethod
    def image_mask(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask of one image at its own size, (height, width) bool, True = fake.

        Args:
            rows: The image's row, or those of all its tiles, int64.
        """

    def require_masks(self, remedy: str) -> None:
        """Raise `InputError`, which ends in `remedy`, for images without masks."""
        if not self.has_masks:
            raise InputError(f"{self.location} has no masks, its images are unlabelled; {remedy}")

    @property
    def labels(self) -> np.ndarray:
        """Labels, (N,) int8, 1 = fake."""
        return self.samples.labels

    @property
    def splits(self) -> list[str]:
        """The splits that occur, sorted."""
        return list(self.samples.names("split"))

    @property
    def generators(self) -> list[str]:
        """The generators of the fakes that occur, sorted."""
        return list(self.samples.names("generator", label=FAKE))

    def fake_rows(self, split: str, generators: Sequence[str] | None = None) -> np.ndarray:
        """Rows (int64) of the usable fakes of a split, of the given generators or of all.

        Sorted by the samples' ids, so that a store which grew feeds a training in the same order
        as one made at once.

        Raises `UnknownNameError` for a split or generator that does not occur.
        """
        return self._rows(split, generators, with_real=False)

    def fake_and_real_rows(self, split: str, generators: Sequence[str] | None = None) -> np.ndarray:
        """`fake_rows` and all usable real images of the split, together sorted by ids."""
        return self._rows(split, generators, with_real=True)

    def _rows(self, split: str, generators: Sequence[str] | None, with_real: bool) -> np.ndarray:
        if split not in self.splits:
            raise UnknownNameError(f"split in {self.location}", split, self.splits)
        known = self.generators
        for name in generators or ():
            if name not in known:
                raise UnknownNameError(f"generator in {self.location}", name, known)
        rows = self.samples.rows(splits=[split], generators=generators, label=FAKE)
        if with_real:
            rows = np.concatenate([rows, self.samples.rows(splits=[split], label=REAL)])
        rows = rows[~np.isin(rows, list(self.failures))]
        return self.samples.by_id(rows)


class OtherView(LabelledImages):
    """Labelled images as another view: the same images and masks, for maps of that view."""

    def __init__(self, images: LabelledImages, view: str) -> None:
        """Take the images of another view, and the name of theirs."""
        self._images = images
        self._view = view
        self.location = images.location
        self.dataset = images.dataset
        self.samples = images.samples
        self.failures = images.failures

    @property
    def known(self) -> Samples:
        """All images of the data."""
        return self._images.known

    @property
    def view(self) -> str:
        """Name of the view."""
        return self._view

    @property
    def sha256(self) -> str:
        """Identity of the images and the view, 64 hex digits."""
        return sha256_of_json([self._images.sha256, self._view])

    @property
    def has_masks(self) -> bool:
        """Return whether masks say which pixels are fake."""
        return self._images.has_masks

    @property
    def root(self) -> Path | None:
        """Folder of the images' files."""
        return self._images.root

    def read_thumbnails(self, rows: np.ndarray) -> np.ndarray | None:
        """Return small copies of rows; None without any."""
        return self._images.read_thumbnails(rows)

    def image_mask(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask of one image at its own size."""
        return self._images.image_mask(rows)
