"""Analysis of one image by several runs beside one another, kept in memory."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from declip_pipeline.errors import ImageError
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.files import folder_name
from declip_pipeline.images.decode import decode_image, image_size
from declip_pipeline.prediction.files import (
    DEFAULT_SAVE,
    Prediction,
    files_of,
    predicted_files,
    prediction_table,
    verdict_of,
)
from declip_pipeline.reports.overlay import overlay
from declip_pipeline.training.predictor import PredictedMap
from declip_pipeline.training.predictor_opening import open_predictors
from declip_pipeline.training.run import Run, RunLike
from declip_pipeline.training.validation import THRESHOLDS

DEFAULT_MAX_MEGAPIXELS = 50.0
"""Largest image by default; the maps of one run then take 200 MB."""

LONGEST_SIDE = 16_384
"""Longest side in pixels: browsers draw no larger images."""

SHOWN_SIDE = 1024
"""Longest side in pixels of what is shown of an image."""


@dataclass(frozen=True)
class RealShare:
    """Number of real images on which a run calls at least a share of the pixels fake.

    Args:
        images: Number of those images.
        total: Number of real images of the run's split `valid`.
    """

    images: int
    total: int


class Finding:
    """One run's map of an image.

    Attributes:
        run: The run.
        maps: The map in two sizes, and the image's score.
        smallest_region: Height and width in pixels of what the backbone sees as one position, see
            `Predictor.smallest_region`.
        is_shrunk: Whether that matters, see `Predictor.is_shrunk`.
    """

    def __init__(
        self, run: Run, maps: PredictedMap, smallest_region: tuple[int, int], *, is_shrunk: bool
    ) -> None:
        """Keep a run's map."""
        self.run = run
        self.maps = maps
        self.smallest_region = smallest_region
        self.is_shrunk = is_shrunk

    def fake_share(self, threshold: float) -> float:
        """Return the share of the pixels above a threshold, in [0, 1]."""
        return float(np.count_nonzero(self.maps.full > threshold) / self.maps.full.size)

    def real_share(self, threshold: float, share: float) -> RealShare | None:
        """Return how often the run calls as many pixels fake on real images, as far as is known.

        Args:
            threshold: Threshold; that of `Run.valid_real_shares` below it is taken.
            share: Share of the pixels, in [0, 1].

        Returns:
            The number of real images with at least that share of pixels above the threshold, and at
            least one pixel; None for a run that was not validated on real images.
        """
        shares = self._valid_real_shares
        if shares is None:
            return None
        place = int(np.searchsorted(THRESHOLDS, threshold + 1e-9)) - 1
        of_images = shares[:, max(0, place)]
        alike = (of_images >= share) & (of_images > 0)
        return RealShare(int(alike.sum()), len(of_images))

    @cached_property
    def _valid_real_shares(self) -> np.ndarray | None:
        return self.run.valid_real_shares()

    @cached_property
    def shown_map(self) -> np.ndarray:
        """The map at the size at which it is shown, (h, w) float32 in [0, 1]."""
        return _shown(self.maps.full)

    def shown_mask(self, threshold: float) -> np.ndarray:
        """Return the mask at the size at which it is shown, (h, w) uint8, 255 = fake."""
        return _shown((self.maps.full > threshold).view(np.uint8) * np.uint8(255))


class AnalyzedImage:
    """An image with what each run found in it.

    Attributes:
        name: Name of its file.
        findings: A finding for each run, in the order of the runs.
    """

    def __init__(self, name: str, image: np.ndarray, findings: Sequence[Finding]) -> None:
        """Keep what is needed of an image, HWC uint8 RGB, to show and save results."""
        self.name = name
        self.findings = tuple(findings)
        self._grey = np.asarray(Image.fromarray(image).convert("L"))
        self.shown = _shown(image)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._grey.shape[0], self._grey.shape[1]

    def shown_overlay(self, finding: Finding) -> np.ndarray:
        """Return a finding's map as heat over the image, (h, w, 3) uint8."""
        return overlay(self.shown, finding.shown_map)

    def predictions(self, threshold: float) -> list[tuple[Prediction, dict[str, bytes]]]:
        """Return for each run the row and the files that `predict` writes, by their names."""
        found = []
        name = folder_name(PurePath(self.name).stem)
        files = files_of(name, DEFAULT_SAVE)
        for one in self.findings:
            made = predicted_files(one.maps, self._grey, DEFAULT_SAVE, threshold)
            height, width = one.smallest_region
            row = Prediction(
                self.name,
                "ok",
                *self.size,
                score=made.score,
                fake_share=made.fake_share,
                verdict=verdict_of(made.score, one.run.score_threshold),
                smallest_region=f"{width}x{height}",
            )
            content = {files[kind]: data for kind, data in made.content.items()}
            found.append((replace(row, **files), content))
        return found

    def archive(self, threshold: float) -> bytes:
        """Return a .zip with a folder for each run: its files and predictions.csv."""
        file = io.BytesIO()
        # Nothing inside shrinks further.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for one, (row, content) in zip(self.findings, self.predictions(threshold), strict=True):
                for name, data in content.items():
                    archive.writestr(zipfile.ZipInfo(f"{one.run.name}/{name}"), data)
                table = zipfile.ZipInfo(f"{one.run.name}/predictions.csv")
                archive.writestr(table, prediction_table([row]))
        return file.getvalue()


class Analyzer:
    """Runs that look at one image after the other; each backbone is opened once.

    Attributes:
        runs: The runs.
        repeated: Folders of runs that were given again.
    """

    def __init__(
        self,
        runs: RunLike | Sequence[RunLike],
        *,
        weights: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    ) -> None:
        """Open the runs.

        Args:
            runs: A run or its folder, or several.
            weights: As for `Run.predictor`.
            device: As for `Run.predictor`.
            max_megapixels: Largest image that is decoded.

        Raises:
            InputError: A run is not finished or damaged, or there is none.
            WeightsError: Weights of a backbone are missing.
            IdentityMismatchError: A backbone gives other features than a run was trained on.
        """
        together = Ensemble([runs] if isinstance(runs, Run | str | Path) else runs)
        self.runs, self.repeated = together.runs, together.repeated
        self._predictors = open_predictors(self.runs, weights=weights, device=device)
        self._max_megapixels = max_megapixels

    def __call__(
        self,
        source: Path | bytes,
        name: str,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> AnalyzedImage:
        """Look at an image with all runs.

        Args:
            source: Path of the file, or its content.
            name: Its name for users.
            progress: `progress(done, total)` is called with the number of windows computed, of all
                runs together.

        Raises:
            ImageError: It cannot be used; the message is the reason in one line, without the name.
        """
        sides = image_size(source)
        if max(sides) > LONGEST_SIDE:
            raise ImageError(
                f"{sides[1]}x{sides[0]} pixels; at most {LONGEST_SIDE} a side can be shown, shrink "
                "it or cut a part out"
            )
        image = decode_image(source, max_megapixels=self._max_megapixels)
        height, width = image.shape[:2]
        counts = [len(one.windows(height, width)) for one in self._predictors]
        findings = []
        for number, (run, predictor) in enumerate(zip(self.runs, self._predictors, strict=True)):
            before = sum(counts[:number])
            maps = predictor.predict(
                image,
                progress=lambda done, _, before=before: progress(before + done, sum(counts)),  # type: ignore[misc]
            )
            region = predictor.smallest_region(height, width)
            is_shrunk = predictor.is_shrunk(height, width)
            findings.append(Finding(run, maps, region, is_shrunk=is_shrunk))
        return AnalyzedImage(name, image, findings)


def _shown(values: np.ndarray) -> np.ndarray:
    """Return an image or a map of at most `SHOWN_SIDE` pixels a side, shrunk by areas."""
    height, width = values.shape[:2]
    factor = SHOWN_SIDE / max(height, width)
    if factor >= 1:
        return values
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shrunk = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))
    return shrunk.clip(0, 1) if values.dtype == np.float32 else shrunk
