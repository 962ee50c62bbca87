"""Map source: what gives the maps that are evaluated, such as a run."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.decoders.decoder import resized_maps
from declip_pipeline.evaluation.scores import (
    LOCALIZATION_DTYPES,
    BestOnValid,
    Progress,
    localization_values,
)
from declip_pipeline.images.views import View
from declip_pipeline.metrics.localization import TOP_SHARE
from declip_pipeline.store.reader import Store


class ImageValues(NamedTuple):
    """Values of images.

    Attributes:
        values: By column, (M,) each.
        images: Which of the images they are of, (M,) int64, ascending.
    """

    values: dict[str, np.ndarray]
    images: np.ndarray


class ImageMap(NamedTuple):
    """Map of an image, with its mask.

    Attributes:
        number: Number of the image, in the order of `whole_images`.
        values: Probabilities of "manipulated", (h, w) float32 in [0, 1], at the map's own size.
        mask: (H, W) bool at the image's own size, True = fake.
    """

    number: int
    values: np.ndarray
    mask: np.ndarray


@dataclass
class MapFindings:
    """Findings on a folder of maps: what it lacks, and what else is to be said.

    Attributes:
        missing: Reasons by the ids of images that were to be evaluated and were not.
        extra: Files of maps whose name is that of no image of the data.
        constant: Ids of images whose map has one value.
        unread: Number of other files by suffix.
        without_real: Whether it has maps of no real image, so that there are no false alarms.
    """

    missing: dict[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    constant: list[str] = field(default_factory=list)
    unread: Mapping[str, int] = field(default_factory=dict)
    without_real: bool = False


class OpenedSource(ABC):
    """A map source whose files are open.

    Attributes:
        taken: The stores beside that features are taken from.
        best: What was best on `valid`.
    """

    taken: tuple[Store, ...] = ()
    best: BestOnValid = BestOnValid()

    @property
    @abstractmethod
    def scores(self) -> tuple[str, ...]:
        """Names of the image scores that `detect` gives."""

    @abstractmethod
    def prepare(self, images: LabelledImages, rows: np.ndarray) -> None:
        """Check that all rows of images that are evaluated can be, before the first one is.

        Raises `InputError`.
        """

    def dtype(self, images: LabelledImages) -> str:
        """Return the dtype of the features; "" for maps of no features."""
        return ""

    def finish(self) -> MapFindings | None:
        """Return what was found of files of maps, after the last image; None for runs.

        Raises `InputError` where the files make no sense together.
        """
        return None

    @abstractmethod
    def made_from(self, images: LabelledImages) -> dict[str, Any]:
        """Return what the values of these images follow from, besides the images: plain JSON."""

    def input_locations(self, images: LabelledImages) -> tuple[str, ...]:
        """Return where the features of these images lie; none for maps of no features."""
        return ()

    @abstractmethod
    def maps(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[ImageMap]:
        """Yield the maps of images, in the order of `whole_images`.

        Images without a map that can be used are left out.

        Args:
            images: Where the images and masks are.
            rows: Rows of the images, or of all their tiles, int64; `prepare` was called with them.
            device: Where to compute.
            batch_size: Rows a step.
            progress: Called with the number of rows done and of all.
        """

    def localize(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
        top_share: float = TOP_SHARE,
    ) -> ImageValues:
        """Evaluate the maps of images at each image's own size.

        Args:
            images: Where the images and masks are.
            rows: Rows of the images, or of all their tiles, int64.
            device: Where to compute.
            batch_size: Rows a step.
            progress: Called with the number of rows done and of all.
            top_share: Share of the pixels that `score_top` is the mean of.

        Returns:
            `LOCALIZATION_COLUMNS`, of the images in the order of `whole_images`.
        """
        found: dict[str, list[Any]] = {name: [] for name in LOCALIZATION_DTYPES}
        numbers = []
        for number, own, mask in self.maps(
            images, rows, device=device, batch_size=batch_size, progress=progress
        ):
            height, width = mask.shape
            maps = resized_maps(torch.from_numpy(own)[None].to(device), height, width)
            masks = torch.from_numpy(mask)[None].to(device)
            values = localization_values(maps, masks, self.best, top_share)
            for name, value in values.items():
                found[name].append(value.item())
            numbers.append(number)
        columns = {name: np.asarray(found[name], of) for name, of in LOCALIZATION_DTYPES.items()}
        return ImageValues(columns, np.asarray(numbers, np.int64))

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
        """Score whole images; arguments as in `maps`.

        Returns:
            A score for each of `scores`, in [0, 1], higher = more likely fake.
        """


class MapSource(ABC):
    """Source of maps to evaluate, before its files are opened."""

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

    @property
    def score_threshold(self) -> float | None:
        """A run's own threshold of image scores, see `Run.score_threshold`; None of others."""
        return None

    def at_view(self, view: View) -> "MapSource":
        """Return the source of the maps of a view of the images."""
        return self

    @property
    def views(self) -> list[View]:
        """Views that maps of no run are there of."""
        return []

    @property
    def features(self) -> list[dict[str, Any]]:
        """Identities of the layers that decoders take; none for maps of no run."""
        return []

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of what the maps follow from, as text: the same for the same maps."""

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
