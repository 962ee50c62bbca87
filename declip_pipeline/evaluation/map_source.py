"""Map source: what gives the maps that are evaluated, such as a run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.evaluation.scores import Progress
from declip_pipeline.store.reader import Store


class ImageValues(NamedTuple):
    """Values of images.

    Attributes:
        values: By column, (M,) each.
        images: Which of the images they are of, (M,) int64, ascending.
    """

    values: dict[str, np.ndarray]
    images: np.ndarray


class OpenedSource(ABC):
    """A map source that was checked against the images it is evaluated on.

    Attributes:
        scores: Names of the image scores that `detect` gives.
        taken: The stores beside that features are taken from.
    """

    scores: tuple[str, ...]
    taken: tuple[Store, ...] = ()

    @abstractmethod
    def made_from(self, images: LabelledImages) -> dict[str, Any]:
        """Return what the values of these images follow from, besides the images: plain JSON."""

    @abstractmethod
    def localize(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> ImageValues:
        """Evaluate the maps of images at each image's own size.

        Args:
            images: Where the images and masks are.
            rows: Rows of the images, or of all their tiles, int64.
            device: Where to compute.
            batch_size: Rows a step.
            progress: Called with the number of rows done and of all.

        Returns:
            `LOCALIZATION_COLUMNS`, of the images in the order of `whole_images`.
        """

    @abstractmethod
    def detect(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> ImageValues:
        """Score whole images; arguments as in `localize`.

        Returns:
            A score for each of `scores`, in [0, 1], higher = more likely fake.
        """


class MapSource(ABC):
    """What is evaluated, before its files are opened."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """Folder of a run; of what is no run, its name."""

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.path.name

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what is configured, as `Run.config` does; `run_sha256` is the identity."""

    @property
    def problem(self) -> str | None:
        """Problem of a training and what to change, in a line; None if there is none."""
        return None

    @abstractmethod
    def opened(self, images: Sequence[LabelledImages], beside: Sequence[Store]) -> OpenedSource:
        """Open the files, and check that the images can be evaluated.

        Args:
            images: All images to evaluate on.
            beside: Stores of the same images, for decoders that take features of several stores.

        Raises:
            InputError: For what is not finished or damaged.
            IdentityMismatchError: For other features than those of a run, naming the field.
        """
