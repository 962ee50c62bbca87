"""Files of a prediction: mask, maps, overlay, and a row of a table."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from PIL import Image

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.files import write_text
from declip_pipeline.images.png import GreyPng
from declip_pipeline.metrics.regions import without_small_regions
from declip_pipeline.options import SavedKind
from declip_pipeline.reports.overlay import overlaid

DEFAULT_SAVE: tuple[SavedKind, ...] = ("mask", "map", "overlay")
EACH = "each"
FORGED, NOT_FOUND = "forged", "not found"

_ENDINGS = {
    "mask": "_mask.png",
    "map": "_map.npz",
    "map-full": "_map-full.png",
    "overlay": "_overlay.jpg",
    EACH: "_each.npz",
}

# A PNG takes many times as long, and more bytes (benchmarks/encoding.py).
_OVERLAY_QUALITY = 90
_LONGEST_JPEG = 65_500
# Rows of a whole mask that are encoded at once.
_STRIP_ROWS = 256


def verdict_of(score: float, threshold: float | None) -> str:
    """Return "forged" for a score of at least a threshold, else "not found"; "" without one."""
    if threshold is None:
        return ""
    return FORGED if score >= threshold else NOT_FOUND


@dataclass(frozen=True)
class Prediction:
    """Row of predictions.csv.

    Args:
        image: Path of the image.
        status: "ok" or "failed"; a failed image has nothing but a `reason`, others have none.
        height: In pixels.
        width: In pixels.
        score: Probability that the image is fake, in [0, 1].
        fake_share: Share of the pixels that the mask calls fake, in [0, 1].
        smallest_region: WIDTHxHEIGHT in pixels of what the backbone sees of the image, or of a
            tile, as one position: smaller regions may not be found.
        mask: File, relative to the folder of predictions, as are the other files; empty where it
            is not saved.
        map: See `mask`.
        overlay: See `mask`.
        map_full: See `mask`.
        each: See `mask`.
        reason: Why the image could not be used.
        verdict: "forged" where the score is at least the run's threshold of image scores
            (`Run.score_threshold`), else "not found"; empty where there is no such threshold.
    """

    image: str
    status: str
    height: int | str = ""
    width: int | str = ""
    score: float | str = ""
    fake_share: float | str = ""
    mask: str = ""
    map: str = ""
    overlay: str = ""
    reason: str = ""
    smallest_region: str = ""
    map_full: str = ""
    each: str = ""
    verdict: str = ""


def chosen_kinds(save: Sequence[str], *, each: bool = False) -> list[str]:
    """Return the kinds of files to save, without repeats, in the order of their documentation.

    Raises `UnknownNameError`.
    """
    known = get_args(SavedKind)
    for kind in save:
        if kind not in known:
            raise UnknownNameError("kind of `save`", kind, known)
    return [kind for kind in _ENDINGS if kind in save or (each and kind == EACH)]


def files_of(name: str, kinds: Collection[str]) -> dict[str, str]:
    """Return the files of the prediction called `name`, relative to its folder, by kind."""
    return {kind: name + ending for kind, ending in _ENDINGS.items() if kind in kinds}


class ImageMap(Protocol):
    """Map of one image, read once: an `ImageMaps` on its way, or a `PredictedMap` that is kept."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""

    @property
    def small(self) -> np.ndarray:
        """The map (h, w) float32 in [0, 1], as fine as the decoder's."""

    @property
    def each(self) -> np.ndarray:
        """The map of each run, (runs, h, w) float32 in [0, 1]."""

    @property
    def score(self) -> float:
        """Score of the image in [0, 1]."""

    def strips(self, *, with_each: bool = False) -> Iterator[np.ndarray]:
        """Yield the map at the image's size from the top; see `ImageMaps.strips`."""


@dataclass(frozen=True)
class PredictedFiles:
    """Content of an image's files by kind, and the figures of its row."""

    content: dict[str, bytes]
    score: float
    fake_share: float


def predicted_files(
    maps: ImageMap,
    grey: np.ndarray | None,
    kinds: Collection[str],
    threshold: float,
    *,
    min_region: float = 0.0,
    run_names: Sequence[str] = (),
) -> PredictedFiles:
    """Make an image's files from its maps, strip by strip.

    - "mask": 8-bit grey PNG of the image's size, 255 where the map is above `threshold`, without
      regions below `min_region`.
    - "map": .npz with `map` (hw float32, as fine as the decoder's), `score` and `imgsize` (height,
      width).
    - "map-full": 16-bit grey PNG of the image's size, 65535 times the probability. A value is then
      right to 1e-5 everywhere; float16 has half the digits near 1 and takes more space
      (benchmarks/encoding.py).
    - "overlay": JPEG, of the image's size up to 65,500 pixels a side.
    - "each": .npz with `maps` (runs, h, w) float32, `runs` (their names) and `imgsize`.

    Args:
        maps: The maps.
        grey: (H, W) uint8; needed for an overlay.
        kinds: Of `chosen_kinds`.
        threshold: Pixels above it are fake.
        min_region: Minimum size of the mask's regions, a share of the image's pixels; with one the
            mask is made as a whole, 6 bytes a pixel where regions are few.
        run_names: Name of each run of "each".
    """
    height, width = maps.size
    mask = _Mask(height, width, min_region, is_saved="mask" in kinds)
    full = GreyPng(height, width, np.uint16) if "map-full" in kinds else None
    shown = np.empty((height, width, 4), np.uint8) if "overlay" in kinds else None
    top = 0
    for strip in maps.strips(with_each=EACH in kinds):
        mask.add(strip > threshold)
        if full is not None:
            full.add((strip * 65535 + 0.5).astype(np.uint16))
        if shown is not None and grey is not None:
            rows = slice(top, top + len(strip))
            shown[rows] = overlaid(grey[rows], strip)
        top += len(strip)
    mask.finish()
    content = {}
    if mask.png is not None:
        content["mask"] = mask.png.content()
    size = np.asarray(maps.size)
    if "map" in kinds:
        content["map"] = _npz(map=maps.small, score=np.asarray(maps.score), imgsize=size)
    if full is not None:
        content["map-full"] = full.content()
    if shown is not None:
        content["overlay"] = _jpeg(shown)
    if EACH in kinds:
        content[EACH] = _npz(maps=maps.each, runs=np.asarray(run_names), imgsize=size)
    return PredictedFiles(content, maps.score, mask.fakes / (height * width))


class _Mask:
    """Mask of an image, added strip by strip; with a minimum size of regions kept as a whole."""

    def __init__(self, height: int, width: int, min_region: float, *, is_saved: bool) -> None:
        self.png = GreyPng(height, width, np.uint8) if is_saved else None
        self.fakes = 0
        self._min_region = min_region
        self._whole = np.empty((height if min_region else 0, width), np.bool_)
        self._top = 0

    def add(self, fake: np.ndarray) -> None:
        if self._min_region:
            self._whole[self._top : self._top + len(fake)] = fake
            self._top += len(fake)
        else:
            self._write(fake)

    def finish(self) -> None:
        if self._min_region:
            kept = without_small_regions(self._whole, self._min_region)
            for top in range(0, len(kept), _STRIP_ROWS):
                self._write(kept[top : top + _STRIP_ROWS])

    def _write(self, fake: np.ndarray) -> None:
        self.fakes += int(np.count_nonzero(fake))
        if self.png is not None:
            self.png.add(fake.view(np.uint8) * np.uint8(255))


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    # Compression costs much and saves little (benchmarks/encoding.py).
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _jpeg(shown: np.ndarray) -> bytes:
    height, width = shown.shape[:2]
    image = Image.frombuffer("RGBX", (width, height), shown, "raw", "RGBX", 0, 1)
    if max(height, width) > _LONGEST_JPEG:
        image.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_OVERLAY_QUALITY)
    return file.getvalue()


def write_prediction_table(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write the rows as CSV; an interrupted write leaves no file."""
    write_text(path, prediction_table(predictions))


def prediction_table(predictions: Sequence[Prediction]) -> str:
    """Return the rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Prediction)])
    writer.writeheader()
    writer.writerows(asdict(prediction) for prediction in predictions)
    return text.getvalue()
