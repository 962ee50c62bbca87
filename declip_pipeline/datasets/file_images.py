"""Images of a dataset that are evaluated from their files, without a store."""

from pathlib import Path

import numpy as np

from declip_pipeline.datasets.checks import other_size_text
from declip_pipeline.datasets.contents import decodable
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.files import sha256_of_json
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.views import CLEAN


class DatasetImages(LabelledImages):
    """The images of a dataset with their masks' files, as `open_dataset` returns it."""

    def __init__(self, dataset: Dataset, *, known: Samples | None = None) -> None:
        """Take a dataset whose files were scanned.

        Args:
            dataset: The dataset.
            known: All of its images, where `dataset` is a part of it.

        Raises:
            InputError: For a dataset that was not scanned.
        """
        if not dataset.is_scanned:
            raise InputError(
                f"the files of {dataset.root} were not read yet; expected a dataset of open_dataset"
            )
        self._dataset = dataset
        self._known = dataset.samples if known is None else known
        self.location = str(dataset.root)
        self.dataset = dataset.name
        self.samples = dataset.samples
        unreadable = np.flatnonzero(self.samples.sizes[:, 0] == 0)
        self.failures = dict.fromkeys(unreadable.tolist(), "is unreadable")

    @property
    def known(self) -> Samples:
        """All images of the data."""
        return self._known

    @property
    def view(self) -> str:
        """Name of the view: the images are as they are."""
        return CLEAN

    @property
    def sha256(self) -> str:
        """Identity of the images, 64 hex digits."""
        return sha256_of_json(
            {"fake_is_white": self._dataset.fake_is_white, "samples": self.samples.sha256()}
        )

    @property
    def has_masks(self) -> bool:
        """Return whether masks say which pixels are fake."""
        return self.samples.have_masks

    @property
    def root(self) -> Path:
        """Folder of the images' files."""
        return self._dataset.root

    def image_mask(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask of one image at its own size, (height, width) bool, True = fake.

        Raises `ImageError` for a file that cannot be read, or is of another size.
        """
        sample = self.samples[int(rows[0])]
        size = (sample.height, sample.width)
        if sample.mask is None:
            return np.zeros(size, bool)
        mask = decode_mask(
            decodable(self._dataset.root, sample.mask),
            fake_is_white=self._dataset.fake_is_white,
            max_megapixels=DEFAULT_MAX_MEGAPIXELS,
        )
        if mask.shape != size:
            raise ImageError(f"{sample.mask} {other_size_text(size, mask.shape)}")
        return mask
