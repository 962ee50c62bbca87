"""Predictor: backbones and a decoder, from an image to a probability map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.decoder import Decoder, resized_maps
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.features import rounded_features
from declip_pipeline.images.decode import SMALLEST_SIDE, decode_image, decode_opened
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.identity import (
    feature_identity,
    parts_of,
    require_same_features,
)

ImageLike = str | Path | Image.Image | np.ndarray
"""Path of an image file, PIL image, or HWC uint8 RGB array."""


SHRUNK = 2.0
"""Factor from which on an image loses what is small when it is shrunk to the backbone's input."""


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


class Predictor:
    """Probability maps of manipulated pixels, for images of any size.

    `Run.predictor` makes one.

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
        self._decoder = decoder.eval()
        self._inputs = [
            (backbone, str(part["layer"]), dtype)
            for backbone, part, dtype in zip(backbones, parts, dtypes, strict=True)
        ]

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
            by more than `SHRUNK` before the backbone sees it; None for others.
        """
        sizes = [backbone.preprocessing for backbone, _, _ in self._inputs]
        if all(height <= SHRUNK * one.height and width <= SHRUNK * one.width for one in sizes):
            return None
        shapes = self._decoder.input_shapes
        rows, columns = (max(getattr(s, side) for s in shapes) for side in ("height", "width"))
        return -(-height // rows), -(-width // columns)

    def predict(self, image: np.ndarray) -> "PredictedMap":
        """Return the map of an image, HWC uint8 RGB, in two sizes, and a score of the image."""
        computed: dict[Backbone, dict[str, torch.Tensor]] = {}
        for backbone, _, _ in self._inputs:
            if backbone not in computed:
                layers = [layer for one, layer, _ in self._inputs if one is backbone]
                computed[backbone] = backbone.features(_resized(image, backbone), layers)
        device = next(self._decoder.parameters()).device
        with torch.inference_mode(), exact_float32(device):
            inputs = [
                rounded_features(
                    computed[backbone][layer], dtype, is_grid=backbone.layers[layer].is_grid
                )
                for backbone, layer, dtype in self._inputs
            ]
            logits = self._decoder(*inputs)
            small = torch.sigmoid(logits.float())
            full = resized_maps(small, *image.shape[:2])[0].cpu().numpy()
            if self._decoder.pooling is None:
                score = float(full.mean(dtype=np.float64))
            else:
                score = float(self._decoder.pooling(logits.float()).double().sigmoid()[0])
            return PredictedMap(small[0].cpu().numpy(), full, score)


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


def _resized(image: np.ndarray, backbone: Backbone) -> torch.Tensor:
    """Return an image (1, 3, height, width) uint8 of the backbone's input size."""
    wanted = backbone.preprocessing
    resized = resize_image(image, wanted.height, wanted.width, wanted.interpolation)
    return torch.from_numpy(resized[None]).permute(0, 3, 1, 2)
