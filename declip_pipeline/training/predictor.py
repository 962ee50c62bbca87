"""Predictor: backbones and decoders, from images to probability maps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import exact_float32, is_out_of_memory
from declip_pipeline.decoders.at_windows import features_at_windows
from declip_pipeline.decoders.averaged import (
    AveragedDecoders,
    mean_logits,
    require_averageable,
)
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import IdentityMismatchError, ImageError, InputError
from declip_pipeline.features import rounded_features
from declip_pipeline.images.decode import (
    SMALLEST_SIDE,
    decode_image,
    decode_opened,
    rgb_pixels,
)
from declip_pipeline.images.resize import resize_image
from declip_pipeline.images.tiles import Tiling, Window, window_shares
from declip_pipeline.store.identity import (
    feature_identity,
    parts_of,
    require_same_features,
)
from declip_pipeline.training.image_maps import ImageMaps, WindowMaps

ImageLike = str | Path | Image.Image | np.ndarray
"""Path of an image file, PIL image, or HWC uint8 RGB array."""


SHRUNK = 2.0
"""Factor from which on an image loses what is small when it is shrunk to the backbone's input."""

# Windows of one image that `Predictor.predict` computes at once.
_BATCH_SIZE = 16
_STRIP_PIXELS = 2**20

_InputSize = tuple[int, int, str]


@dataclass(frozen=True, eq=False)
class PredictedMap:
    """Probabilities of "manipulated" of one image, float32 in [0, 1].

    Attributes:
        small: (h, w), as the decoder gives them.
        full: (height, width), `small` resized bilinearly to the image's size.
        score: Score of the whole image in [0, 1], higher = more likely fake: the mean of `full`; of
            a decoder that was trained for detection, the sigmoid of its pooled logit.
    """

    small: np.ndarray
    full: np.ndarray
    score: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.full.shape[0], self.full.shape[1]

    @property
    def each(self) -> np.ndarray:
        """`small` as the map of the only run, (1, h, w)."""
        return self.small[None]

    def strips(self, *, with_each: bool = False) -> Iterator[np.ndarray]:
        """Yield `full` from the top, as `ImageMaps.strips` does."""
        rows = max(1, _STRIP_PIXELS // self.full.shape[1])
        for top in range(0, len(self.full), rows):
            yield self.full[top : top + rows]


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """Input of the backbones from one image.

    Attributes:
        size: Height and width of the image in pixels.
        pictures: The whole image at each input size, HWC uint8 RGB, by height, width and
            interpolation.
        pixels: The image, HWC uint8 RGB, that tiles are cut of; else None.
        beside: Features of the whole image, by backbone and layer, once they are computed.
    """

    size: tuple[int, int]
    pictures: Mapping[_InputSize, np.ndarray]
    pixels: np.ndarray | None
    beside: "dict[tuple[Backbone, str], Tensor]" = field(default_factory=dict)


class _Input(NamedTuple):
    """One of the layers that a decoder joins.

    `sees` says what the backbone gets: the whole image of a run on whole images ("image"), a window
    ("tile"), or the whole image of a run on tiles, whose features are taken at the window
    ("beside").
    """

    backbone: Backbone
    layer: str
    dtype: str
    sees: str


class Predictor:
    """Probability maps of manipulated pixels, for images of any size.

    `Run.predictor` makes one. `joined` makes one of several: their map is the sigmoid of the mean
    of their logits, and each backbone computes once an image for all that share it.

    Example:
        >>> predict = open_run("runs/conv-4_layer3_all_seed0_0123456789ab").predictor()
        >>> probability = predict("suspicious.jpg")  # (height, width) float32 in [0, 1]
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        decoder: Decoder,
        features: Mapping[str, Any],
        *,
        dtypes: Sequence[str],
        tiles: Tiling | str | None = None,
    ) -> None:
        """Join a decoder to the backbones of its features.

        Args:
            backbones: One for each layer that the decoder joins.
            decoder: Takes these layers; on the device where it is to compute.
            features: Identity of the features that the decoder was trained on.
            dtypes: Dtypes of the stores that it was trained from, one for each layer: features are
                rounded to them.
            tiles: Tiling of the images, of features of tiles; its size is theirs. None overlaps the
                tiles by a quarter.

        Raises:
            IdentityMismatchError: A backbone gives other features, or `tiles` has another size;
                names the field that differs.
        """
        parts = parts_of(features)
        self.tiling = _tiling_of(parts, tiles)
        for backbone, part, shape in zip(backbones, parts, decoder.input_shapes, strict=True):
            layer = part["layer"]
            found = feature_identity(
                backbone.name,
                backbone.weights_sha256,
                backbone.preprocessing.to_json(),
                layer,
                backbone.layers.get(layer, shape),
            )
            found |= {key: part[key] for key in ("tiles", "windows") if key in part}
            require_same_features(part, found, decoder="the run", features="the backbone")
        self._inputs = [
            _Input(backbone, str(part["layer"]), dtype, _seen_by(part))
            for backbone, part, dtype in zip(backbones, parts, dtypes, strict=True)
        ]
        self._decoders = AveragedDecoders([decoder])

    @classmethod
    def joined(cls, predictors: Sequence["Predictor"]) -> "Predictor":
        """Return the predictor of the mean of several.

        Raises:
            IdentityMismatchError: Their maps cannot be averaged; names the field that differs.
        """
        require_averageable(
            [
                {
                    "task": one.task,
                    "tiles": str(one.tiling or "whole images"),
                    "output_size": one.output_size,
                }
                for one in predictors
            ]
        )
        joined = object.__new__(cls)
        joined.tiling = predictors[0].tiling
        joined._inputs = [one for own in predictors for one in own._inputs]
        joined._decoders = AveragedDecoders(
            [member for one in predictors for member in one._decoders.members]
        )
        return joined

    @property
    def task(self) -> str:
        """Task of the training: "localization", or "detection" for one on labels of images."""
        return self._decoders.task

    @property
    def output_size(self) -> int:
        """Side of a decoder's map in pixels."""
        return self._decoders.output_size

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Return the probability of "manipulated" for each pixel.

        Args:
            image: Path of an image file, PIL image, or HWC uint8 RGB array. Files and PIL images
                are turned upright by their EXIF orientation first, and alpha is dropped.

        Returns:
            (height, width) float32 in [0, 1], of the upright image's size.

        Raises:
            InputError: The file is missing or not an image, the image has less than 16x16 pixels
                or more than 178 megapixels, or the array has another shape or dtype.
        """
        return self.map(as_rgb(image))

    def map(self, image: np.ndarray) -> np.ndarray:
        """Return the map (height, width) float32 in [0, 1] of an image, HWC uint8 RGB."""
        return self.predict(image).full

    def smallest_region(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of what the backbone sees of an image as one position, in pixels.

        Smaller regions are not told apart, and may not be found.

        Args:
            height: Height of the image.
            width: Width of the image.

        Returns:
            (height, width) of a position of the finest grid, rounded up: its part of the image or,
            for a run on tiles, which are not shrunk, of a tile.
        """
        if self.tiling is not None:
            window = self.tiling.windows(height, width)[0]
            height, width = window.height, window.width
        shapes = self._decoders.input_shapes
        rows, columns = (max(getattr(s, side) for s in shapes) for side in ("height", "width"))
        return -(-height // rows), -(-width // columns)

    def is_shrunk(self, height: int, width: int) -> bool:
        """Return whether an image is shrunk by more than `SHRUNK` before a backbone sees it."""
        if self.tiling is not None:
            return False
        sizes = [backbone.preprocessing for backbone, _ in self._layers_of()]
        return any(height > SHRUNK * one.height or width > SHRUNK * one.width for one in sizes)

    def predict(
        self,
        image: np.ndarray,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> PredictedMap:
        """Return the map of an image in two sizes, and a score of the image.

        Args:
            image: HWC uint8 RGB.
            progress: `progress(done, total)` is called with the number of windows computed.
        """
        prepared = self.prepare(image)
        windows = self.windows(*prepared.size)

        def batches() -> Iterator[WindowMaps]:
            for first in range(0, len(windows), _BATCH_SIZE):
                some = windows[first : first + _BATCH_SIZE]
                yield self.compute([(prepared, one) for one in some])
                progress(first + len(some), len(windows))

        maps = ImageMaps(prepared.size, windows, batches())
        full = np.concatenate(list(maps.strips()))
        return PredictedMap(maps.small, full, maps.score)

    def windows(self, height: int, width: int) -> list[Window]:
        """Return what is computed of an image one after the other: all of it, or its tiles."""
        if self.tiling is None:
            return [Window(0, 0, height, width)]
        return self.tiling.windows(height, width)

    def prepare(self, image: np.ndarray | Image.Image) -> PreparedImage:
        """Return what the backbones see of an image, HWC uint8 RGB or a PIL image of mode RGB."""
        if isinstance(image, Image.Image):
            size = image.height, image.width
        else:
            size = image.shape[0], image.shape[1]
        wanted = {
            _input_size(backbone): None for backbone, sees in self._layers_of() if sees != "tile"
        }
        pixels = None
        if self.tiling is not None:
            pixels = rgb_pixels(image) if isinstance(image, Image.Image) else image
        return PreparedImage(size, {key: resize_image(image, *key) for key in wanted}, pixels)

    def compute(self, parts: Sequence[tuple[PreparedImage, Window]]) -> WindowMaps:
        """Return the maps of windows, computed as one batch.

        A batch that the device's memory cannot hold is computed in halves.
        """
        try:
            return self._compute(parts)
        except (RuntimeError, MemoryError) as error:
            if len(parts) == 1 or not is_out_of_memory(error):
                raise
        half = len(parts) // 2
        one, other = self.compute(parts[:half]), self.compute(parts[half:])
        pooled = None
        if one.pooled is not None and other.pooled is not None:
            pooled = np.concatenate([one.pooled, other.pooled])
        return WindowMaps(
            np.concatenate([one.small, other.small]),
            np.concatenate([one.each, other.each], axis=1),
            pooled,
        )

    def _compute(self, parts: Sequence[tuple[PreparedImage, Window]]) -> WindowMaps:
        computed = {
            (backbone, sees, layer): values
            for (backbone, sees), layers in self._layers_of().items()
            for layer, values in _features(parts, backbone, sees, layers).items()
        }
        shares = window_shares(
            np.asarray([window for _, window in parts]), np.asarray([one.size for one, _ in parts])
        )
        with torch.inference_mode(), exact_float32(self._decoders.device):
            logits = self._decoders.logits(self._rounded(computed, torch.from_numpy(shares)))
            each = torch.sigmoid(logits).cpu().numpy()
            small = each[0]
            if len(logits) > 1:
                small = torch.sigmoid(mean_logits(logits)).cpu().numpy()
            pooled = None
            if self.task == "detection":
                pooled = self._decoders.pooled(logits).cpu().numpy()
        return WindowMaps(small, each, pooled)

    def _rounded(
        self, computed: Mapping[tuple[Backbone, str, str], Tensor], shares: Tensor
    ) -> list[Tensor]:
        """Return the features of each input as a store gives them."""
        rounded: dict[_Input, Tensor] = {}
        for one in self._inputs:
            if one in rounded:
                continue
            shape = one.backbone.layers[one.layer]
            values = rounded_features(
                computed[one.backbone, one.sees, one.layer], one.dtype, is_grid=shape.is_grid
            )
            if one.sees == "beside":
                values = features_at_windows(values, shape, shares.to(values.device))
            rounded[one] = values
        return [rounded[one] for one in self._inputs]

    def _layers_of(self) -> dict[tuple[Backbone, str], list[str]]:
        """Return the layers that are computed of each backbone and of what it sees."""
        found: dict[tuple[Backbone, str], list[str]] = {}
        for one in self._inputs:
            found.setdefault((one.backbone, one.sees), []).append(one.layer)
        return found


def as_rgb(image: ImageLike) -> np.ndarray:
    """Return an image as HWC uint8 RGB. Arguments and errors as for `Predictor.__call__`."""
    if isinstance(image, str | Path):
        try:
            return decode_image(Path(image))
        except ImageError as error:
            raise ImageError(f"{image}: {error}") from error
    if isinstance(image, Image.Image):
        return decode_opened(image)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image of shape {array.shape} and dtype {array.dtype}; expected a path, a PIL "
            "image, or an array (height, width, 3) uint8 RGB"
        )
    if min(array.shape[:2]) < SMALLEST_SIDE:
        raise InputError(
            f"an image of {array.shape[1]}x{array.shape[0]} pixels; expected at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    return array


def _input_size(backbone: Backbone) -> _InputSize:
    wanted = backbone.preprocessing
    return wanted.height, wanted.width, wanted.interpolation


def _tiling_of(parts: Sequence[Mapping[str, Any]], tiles: Tiling | str | None) -> Tiling | None:
    """Return the tiling of features. Raises `IdentityMismatchError` for one of another size."""
    size = next((part[key] for part in parts for key in ("tiles", "windows") if key in part), None)
    tiling = None if tiles is None else Tiling.parse(tiles)
    if tiling is None:
        return None if size is None else Tiling(size)
    if tiling.size != size:
        raise IdentityMismatchError(
            f"tiles differs: the run was trained on {size!r}, `tiles` is {str(tiling)!r}; leave "
            "`tiles` out, or name that size"
        )
    return tiling


def _seen_by(part: Mapping[str, Any]) -> str:
    return "beside" if "windows" in part else "tile" if "tiles" in part else "image"


def _features(
    parts: Sequence[tuple[PreparedImage, Window]],
    backbone: Backbone,
    sees: str,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """Return the features of windows, (N, *array_shape) for each layer.

    Of "beside" they are those of the whole images, which are computed once and kept.
    """
    key = _input_size(backbone)
    if sees == "image":
        return backbone.features(_stacked([image.pictures[key] for image, _ in parts]), layers)
    if sees == "tile":
        return backbone.features(_stacked([_cut(image, w, key) for image, w in parts]), layers)
    missing = list(
        dict.fromkeys(one for one, _ in parts if (backbone, layers[0]) not in one.beside)
    )
    if missing:
        found = backbone.features(_stacked([one.pictures[key] for one in missing]), layers)
        for layer, values in found.items():
            for image, own in zip(missing, values, strict=True):
                image.beside[backbone, layer] = own
    return {
        layer: torch.stack([image.beside[backbone, layer] for image, _ in parts])
        for layer in layers
    }


def _cut(image: PreparedImage, window: Window, size: _InputSize) -> np.ndarray:
    """Return what a window shows, at the backbone's input size."""
    assert image.pixels is not None, "kept for tiles"
    shown = window.of(image.pixels)
    return shown if shown.shape[:2] == size[:2] else resize_image(shown, *size)


def _stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return pictures HWC as a batch (N, 3, height, width) uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
