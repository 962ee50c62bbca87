"""Predictor: backbones and decoders, from images to probability maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from declip_pipeline.backbones.backbone import Backbone, Preprocessing
from declip_pipeline.compute import exact_float32, is_out_of_memory
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import IdentityMismatchError, ImageError, InputError
from declip_pipeline.features import rounded_features
from declip_pipeline.images.decode import SMALLEST_SIDE, decode_image, decode_opened
from declip_pipeline.images.resize import resize_image, resized_strips
from declip_pipeline.images.tiles import Window
from declip_pipeline.store.identity import (
    feature_identity,
    parts_of,
    require_same_features,
)

ImageLike = str | Path | Image.Image | np.ndarray
"""Path of an image file, PIL image, or HWC uint8 RGB array."""


SHRUNK = 2.0
"""Factor from which on an image loses what is small when it is shrunk to the backbone's input."""

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


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """What the backbones see of an image.

    Attributes:
        size: Height and width of the image in pixels.
        pictures: The image at each input size, HWC uint8 RGB, by height, width and interpolation.
    """

    size: tuple[int, int]
    pictures: Mapping[_InputSize, np.ndarray]


class WindowMaps(NamedTuple):
    """Maps of N windows.

    Attributes:
        small: Probabilities of all runs together, (N, h, w) float32 in [0, 1].
        each: Those of each run, (runs, N, h, w).
        pooled: (N,) float64, logits of the images, of decoders trained for detection; else None.
    """

    small: np.ndarray
    each: np.ndarray
    pooled: np.ndarray | None

    def take(self, windows: slice) -> "WindowMaps":
        """Return those of some windows."""
        pooled = None if self.pooled is None else self.pooled[windows]
        return WindowMaps(self.small[windows], self.each[:, windows], pooled)


class _Member(NamedTuple):
    decoder: Decoder
    inputs: list[tuple[Backbone, str, str]]  # backbone, layer and stored dtype of each part


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
    ) -> None:
        """Join a decoder to the backbones of its features.

        Args:
            backbones: One for each layer that the decoder joins.
            decoder: Takes these layers; on the device where it is to compute.
            features: Identity of the features that the decoder was trained on.
            dtypes: Dtypes of the stores that it was trained from, one for each layer: features are
                rounded to them.

        Raises:
            IdentityMismatchError: A backbone gives other features; names the field that differs.
        """
        parts = parts_of(features)
        for backbone, part, shape in zip(backbones, parts, decoder.input_shapes, strict=True):
            layer = part["layer"]
            found = feature_identity(
                backbone.name,
                backbone.weights_sha256,
                backbone.preprocessing.to_json(),
                layer,
                backbone.layers.get(layer, shape),
            )
            require_same_features(part, found, decoder="the run", features="the backbone")
        inputs = [
            (backbone, str(part["layer"]), dtype)
            for backbone, part, dtype in zip(backbones, parts, dtypes, strict=True)
        ]
        self._members = [_Member(decoder.eval(), inputs)]

    @classmethod
    def joined(cls, predictors: Sequence["Predictor"]) -> "Predictor":
        """Return the predictor of the mean of several.

        Raises:
            IdentityMismatchError: Their maps cannot be averaged; names the field that differs.
        """
        first = predictors[0]
        for other in predictors[1:]:
            for field, expected, found in (
                ("task", first.task, other.task),
                ("output_size", first.output_size, other.output_size),
            ):
                if expected != found:
                    raise IdentityMismatchError(
                        f"{field} differs: the first run has {expected!r}, another {found!r}; "
                        "predict with them apart"
                    )
        joined = object.__new__(cls)
        joined._members = [member for one in predictors for member in one._members]
        return joined

    @property
    def task(self) -> str:
        """Task of the training: "localization", or "detection" for one on labels of images."""
        return "localization" if self._members[0].decoder.pooling is None else "detection"

    @property
    def output_size(self) -> int:
        """Side of a decoder's map in pixels."""
        return self._members[0].decoder.output_size

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

    def smallest_region(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the size of what the backbone sees of an image as one position, in pixels.

        Args:
            height: Height of the image.
            width: Width of the image.

        Returns:
            (height, width) of the finest grid's positions, rounded up, for an image that is shrunk
            by more than `SHRUNK` before a backbone sees it; None for others.
        """
        sizes = [one.preprocessing for one in self._layers_of()]
        if all(height <= SHRUNK * one.height and width <= SHRUNK * one.width for one in sizes):
            return None
        shapes = [shape for member in self._members for shape in member.decoder.input_shapes]
        rows, columns = (max(getattr(s, side) for s in shapes) for side in ("height", "width"))
        return -(-height // rows), -(-width // columns)

    def predict(self, image: np.ndarray) -> PredictedMap:
        """Return the map of an image, HWC uint8 RGB, in two sizes, and a score of the image."""
        prepared = self.prepare(image)
        maps = self.compute([(prepared, one) for one in self.windows(*prepared.size)])
        full = np.concatenate(list(resized_strips(maps.small[0], *prepared.size)))
        score = float(full.mean(dtype=np.float64))
        if maps.pooled is not None:
            score = detection_score(maps.pooled)
        return PredictedMap(maps.small[0], full, score)

    def windows(self, height: int, width: int) -> list[Window]:
        """Return what the backbones see of an image one after the other: the whole image."""
        return [Window(0, 0, height, width)]

    def prepare(self, image: np.ndarray | Image.Image) -> PreparedImage:
        """Return what the backbones see of an image, HWC uint8 RGB or a PIL image of mode RGB."""
        if isinstance(image, Image.Image):
            size = image.height, image.width
        else:
            size = image.shape[0], image.shape[1]
        wanted = dict.fromkeys(_input_size(one.preprocessing) for one in self._layers_of())
        return PreparedImage(size, {key: resize_image(image, *key) for key in wanted})

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
            (backbone, layer): values
            for backbone, layers in self._layers_of().items()
            for layer, values in backbone.features(_batch(parts, backbone), layers).items()
        }
        device = next(self._members[0].decoder.parameters()).device
        with torch.inference_mode(), exact_float32(device):
            logits = torch.stack(list(self._logits(computed)))
            mean = logits[0] if len(logits) == 1 else logits.mean(0)
            each = torch.sigmoid(logits).cpu().numpy()
            small = each[0] if len(logits) == 1 else torch.sigmoid(mean).cpu().numpy()
            pooled = None
            if self.task == "detection":
                own = [
                    member.decoder.pooling(one).double()
                    for member, one in zip(self._members, logits, strict=True)
                    if member.decoder.pooling is not None
                ]
                pooled = torch.stack(own).mean(0).cpu().numpy()
        return WindowMaps(small, each, pooled)

    def _logits(self, computed: Mapping[tuple[Backbone, str], Tensor]) -> Iterator[Tensor]:
        """Yield the logits of each decoder, (N, h, w) float32."""
        rounded: dict[tuple[Backbone, str, str], Tensor] = {}
        for decoder, inputs in self._members:
            for backbone, layer, dtype in inputs:
                if (backbone, layer, dtype) not in rounded:
                    rounded[backbone, layer, dtype] = rounded_features(
                        computed[backbone, layer], dtype, is_grid=backbone.layers[layer].is_grid
                    )
            yield decoder(*(rounded[key] for key in inputs)).float()

    def _layers_of(self) -> dict[Backbone, list[str]]:
        """Return the layers that are computed of each backbone."""
        found: dict[Backbone, list[str]] = {}
        for member in self._members:
            for backbone, layer, _ in member.inputs:
                found.setdefault(backbone, []).append(layer)
        return found


def detection_score(pooled: np.ndarray) -> float:
    """Return the score in [0, 1] of an image from the pooled logits of its windows."""
    return float(1 / (1 + np.exp(-pooled.mean())))


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


def _input_size(preprocessing: Preprocessing) -> _InputSize:
    return preprocessing.height, preprocessing.width, preprocessing.interpolation


def _batch(parts: Sequence[tuple[PreparedImage, Window]], backbone: Backbone) -> Tensor:
    """Return what a backbone sees of windows, (N, 3, height, width) uint8."""
    key = _input_size(backbone.preprocessing)
    return torch.from_numpy(np.stack([image.pictures[key] for image, _ in parts])).permute(
        0, 3, 1, 2
    )
