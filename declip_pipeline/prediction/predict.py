"""Prediction of many images with one run or several, into a folder or one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.metrics.regions import is_min_region
from declip_pipeline.prediction.files import (
    DEFAULT_SAVE,
    Prediction,
    chosen_kinds,
    predicted_files,
    verdict_of,
)
from declip_pipeline.prediction.folder import PredictionFolder
from declip_pipeline.prediction.inputs import named_images
from declip_pipeline.prediction.pipeline import DEFAULT_BATCH_SIZE, FoundImage, Pipeline
from declip_pipeline.store.reader import repeated_text
from declip_pipeline.training.predictor_opening import open_predictor
from declip_pipeline.training.run import Run, RunLike

DEFAULT_THRESHOLD = 0.5
KEEP_ALL = 0.0
"""Minimum size by which all regions are kept."""

Threshold = float | Literal["valid"]
"""A probability in [0, 1], or the threshold that was best on the runs' split `valid`."""

MinRegion = float | Literal["valid"]
"""A share of the image's pixels in [0, 1), or that which was best on the runs' split `valid`."""


@dataclass(frozen=True)
class Predictions:
    """Results of `predict`.

    Attributes:
        table: Path of predictions.csv, with a row an image.
        rows: Its rows, in the order of the images.
    """

    table: Path
    rows: list[Prediction]

    @property
    def failed(self) -> list[Prediction]:
        """Rows of the images that could not be used, each with its `reason`."""
        return [row for row in self.rows if row.status != "ok"]


class FolderPrediction:
    """A prediction into a folder that is checked, and not yet begun; see `predict`.

    Attributes:
        runs: The runs, each once.
        threshold: A pixel above this probability is called fake.
        score_threshold: Threshold of verdicts, see `Run.score_threshold`; None for several runs.
        min_region: Minimum size of a mask's regions, a share of the image's pixels; 0 keeps all.
    """

    def __init__(
        self,
        runs: RunLike | Sequence[RunLike],
        images: str | Path | Sequence[str | Path],
        *,
        out: str | Path = "predictions",
        threshold: Threshold = DEFAULT_THRESHOLD,
        min_region: MinRegion = KEEP_ALL,
        save: Sequence[str] = DEFAULT_SAVE,
        each: bool = False,
        backbone: Backbone | Sequence[Backbone] | None = None,
        weights: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
        overwrite: bool = False,
    ) -> None:
        """Check all that `predict` is called with, and open the runs; writes nothing."""
        if batch_size < 1:
            raise InputError(f"`batch_size` is {batch_size}; expected at least 1")
        ensemble = _opened(runs)
        self.runs, self.repeated = list(ensemble.runs), ensemble.repeated
        self.score_threshold = self.runs[0].score_threshold if len(self.runs) == 1 else None
        self._kinds = chosen_kinds(save, each=each)
        if not self._kinds:
            raise InputError("`save` is empty; expected some of mask, map, map-full, overlay")
        self.threshold = _threshold_of(ensemble, threshold)
        self.min_region = _min_region_of(ensemble, min_region)
        self._batch_size = batch_size
        self._max_megapixels = max_megapixels
        named = [images] if isinstance(images, str | Path) else images
        self.images = named_images(named, Path(out))
        hashes = [run.best_sha256 for run in self.runs]
        for run in self.runs:
            run.decoder()
        made_with = {"decoder": hashes, "threshold": self.threshold}
        if self.min_region:
            made_with["min_region"] = self.min_region
        self._folder = PredictionFolder(
            Path(out), made_with, self.images, kinds=self._kinds, overwrite=overwrite
        )
        self._predictor = open_predictor(self.runs, backbone, weights=weights, device=device)

    def is_shrunk(self, row: Prediction) -> bool:
        """Return whether an image is much larger than what a backbone sees of it."""
        return row.status == "ok" and self._predictor.is_shrunk(int(row.height), int(row.width))

    @property
    def done(self) -> int:
        """Number of images that are predicted already."""
        return len(self._folder.done)

    def run(
        self,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        notice: Callable[[str], None] = lambda line: None,
    ) -> Predictions:
        """Predict the images that are not predicted yet; parameters and errors as `predict`."""
        try:
            return self._run(progress, notice)
        finally:
            self._folder.close()

    def _run(
        self, progress: Callable[[int, int], None], notice: Callable[[str], None]
    ) -> Predictions:
        folder = self._folder
        folder.start()
        for place in self.repeated:
            notice(repeated_text(place))
        rows = dict(folder.done)
        pipeline = Pipeline(
            self._predictor,
            self.images,
            self._write,
            claim=folder.claim,
            done={name: (int(row.height), int(row.width)) for name, row in rows.items()},
            with_grey="overlay" in self._kinds,
            batch_size=self._batch_size,
            max_megapixels=self._max_megapixels,
        )
        progress(len(rows), len(self.images))
        for name, found in pipeline.run():
            if isinstance(found, ImageError):
                notice(f"failed: {self.images[name]}: {found}")
                rows[name] = Prediction(str(self.images[name]), "failed", reason=str(found))
            else:
                rows[name] = found
            progress(len(rows), len(self.images))
        ordered = [self._with_verdict(rows[name]) for name in self.images]
        folder.finish(ordered)
        return Predictions(folder.table, ordered)

    def _with_verdict(self, row: Prediction) -> Prediction:
        """Add what follows from a row; one of an earlier run of this prediction may lack it."""
        if row.status != "ok":
            return row
        height, width = self._predictor.smallest_region(int(row.height), int(row.width))
        verdict = verdict_of(float(row.score), self.score_threshold)
        return replace(row, smallest_region=f"{width}x{height}", verdict=verdict)

    def _write(self, found: FoundImage) -> Prediction:
        height, width = found.maps.size
        names = [run.name for run in self.runs]
        files = predicted_files(
            found.maps,
            found.grey,
            self._kinds,
            self.threshold,
            min_region=self.min_region,
            run_names=names,
        )
        row = Prediction(
            str(found.path),
            "ok",
            height=height,
            width=width,
            score=files.score,
            fake_share=files.fake_share,
        )
        return self._folder.add(found.name, files, row)


def predict(
    runs: RunLike | Sequence[RunLike],
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions",
    threshold: Threshold = DEFAULT_THRESHOLD,
    min_region: MinRegion = KEEP_ALL,
    save: Sequence[str] = DEFAULT_SAVE,
    each: bool = False,
    backbone: Backbone | Sequence[Backbone] | None = None,
    weights: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> Predictions:
    """Find the manipulated pixels of many images, and write what is found into a folder.

    An image that cannot be read, or whose files cannot be written, is a row with the reason. An
    interrupted prediction goes on where it stopped when it is called again. Memory does not grow
    with the number of images.

    Args:
        runs: A run or its folder, or several: the map is then the sigmoid of the mean of their
            logits, and each backbone computes an image once for all runs that share it.
        images: A file, a folder (with all below it) or a pattern, or several of these.
        out: Folder of the results, laid out as the images are below what names them.
        threshold: A pixel above this probability is called fake; "valid" takes the threshold that
            was best on the split `valid` of the run, and of several runs the mean of theirs, as
            logits.
        min_region: Regions of a mask that are smaller than this share of the image's pixels are
            left out, see `without_small_regions`; "valid" takes the minimum size that was best on
            the split `valid` of the run, at 0.5, and of several runs the mean of theirs.
        save: Files of each image: "mask" and "overlay" of its size, "map" as fine as the decoder's
            map (.npz), "map-full" of its size (16-bit PNG).
        each: Save each run's map, too.
        backbone: As for `Run.predictor`.
        weights: As for `Run.predictor`.
        device: As for `Run.predictor`.
        batch_size: Images, or windows of images, that are computed at once.
        max_megapixels: Largest image that is decoded.
        overwrite: Remove the predictions that `out` holds, and nothing else.
        progress: `progress(done, total)` is called after each image.
        notice: Called with a line for each image that fails, and each run that is given again.

    Returns:
        The table and its rows.

    Raises:
        InputError: An argument, a run or an input is not as expected.
        OutputExistsError: `out` holds other files, or predictions that were made otherwise.
        RunBusyError: Another process predicts into `out`.
        IdentityMismatchError: A backbone gives other features than a run was trained on, or the
            maps of the runs cannot be averaged; names the field that differs.
        WeightsError: Weights of a backbone are missing.

    Example:
        >>> found = predict("runs/conv-4_layer3_all_seed0_0123456789ab", "photos", out="found")
        >>> [row.image for row in found.rows if row.fake_share > 0.01]
    """
    return FolderPrediction(
        runs,
        images,
        out=out,
        threshold=threshold,
        min_region=min_region,
        save=save,
        each=each,
        backbone=backbone,
        weights=weights,
        device=device,
        batch_size=batch_size,
        max_megapixels=max_megapixels,
        overwrite=overwrite,
    ).run(progress=progress, notice=notice)


@dataclass(frozen=True, eq=False)
class PredictedImage:
    """Map of one image of `predict_maps`.

    Attributes:
        path: The image.
        map: (height, width) float32 in [0, 1]; None where the image cannot be used.
        small: The map as fine as the decoder's; None alike.
        score: Score of the whole image in [0, 1], higher = more likely fake; None alike.
        reason: Why the image cannot be used; "" where it can.
    """

    path: Path
    map: np.ndarray | None = None
    small: np.ndarray | None = None
    score: float | None = None
    reason: str = ""


def predict_maps(
    runs: RunLike | Sequence[RunLike],
    images: Sequence[str | Path],
    *,
    backbone: Backbone | Sequence[Backbone] | None = None,
    weights: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> Iterator[PredictedImage]:
    """Yield the maps of many images, in their order, and write nothing.

    Images are read ahead in threads and computed in batches, some at a time.

    Args:
        runs: As for `predict`.
        images: Files of images.
        backbone: As for `Run.predictor`.
        weights: As for `Run.predictor`.
        device: As for `Run.predictor`.
        batch_size: Images, or windows of images, that are computed at once.
        max_megapixels: Largest image that is decoded.

    Yields:
        An image's map, or the reason why there is none.

    Raises:
        InputError: A run is not finished or damaged.
        IdentityMismatchError: As `predict`.
        WeightsError: Weights of a backbone are missing.

    Example:
        >>> for found in predict_maps(run, ["a.jpg", "b.jpg"]):
        ...     print(found.path, found.reason or found.score)
    """
    predictor = open_predictor(_opened(runs).runs, backbone, weights=weights, device=device)
    paths = {str(number): Path(path) for number, path in enumerate(images)}
    pipeline = Pipeline(
        predictor, paths, _whole_map, batch_size=batch_size, max_megapixels=max_megapixels
    )
    for name, found in pipeline.run():
        if isinstance(found, ImageError):
            yield PredictedImage(paths[name], reason=str(found))
        else:
            yield found


def _whole_map(found: FoundImage) -> PredictedImage:
    whole = np.empty(found.maps.size, np.float32)
    top = 0
    for strip in found.maps.strips():
        whole[top : top + len(strip)] = strip
        top += len(strip)
    return PredictedImage(found.path, whole, found.maps.small, found.maps.score)


def _threshold_of(ensemble: Ensemble, threshold: Threshold) -> float:
    """Return a probability. Raises `InputError` where none is meant."""
    if threshold == "valid":
        return ensemble.require_valid_threshold()
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(
            f"`threshold` is {threshold!r}; expected a probability from 0 to 1, or valid"
        )
    return threshold


def _min_region_of(runs: Ensemble, min_region: MinRegion) -> float:
    """Return a share of the image's pixels. Raises `InputError` where none is meant."""
    if min_region == "valid":
        lacking = [run.path for run in runs.runs if run.min_region is None]
        if lacking:
            raise InputError(
                f"{lacking[0]} has no minimum size of regions from its split valid: runs of "
                "detection, of tiles, imported ones and those of earlier versions keep none; give "
                "`min_region` as a number"
            )
        return runs.min_region or KEEP_ALL
    if not is_min_region(min_region):
        raise InputError(
            f"`min_region` is {min_region!r}; expected a share of the image's pixels from 0 to "
            "below 1, or valid"
        )
    return float(min_region)


def _opened(runs: RunLike | Sequence[RunLike]) -> Ensemble:
    return Ensemble([runs] if isinstance(runs, Run | str | Path) else runs)
