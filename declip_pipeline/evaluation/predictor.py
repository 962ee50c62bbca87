"""Predictor: backbones and a decoder, from an image to a probability map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.evaluation.scores import probability_maps
from declip_pipeline.features import rounded_features
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.identity import (
    feature_identity,
    parts_of,
    require_same_features,
)


class Predictor:
    """Probability maps of manipulated pixels, for images of any size."""

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
            backbones: The backbone of each layer that the decoder joins.
            decoder: The decoder.
            features: Identity of the features that the decoder was trained on.
            dtypes: Dtype of the stores that each layer was trained from; computed features are
                rounded to it.

        Raises:
            IdentityMismatchError: When a backbone gives other features, naming the field.
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

    def map(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of "manipulated" for each pixel.

        Args:
            image: HWC uint8 RGB.

        Returns:
            HW float32 in [0, 1], of the same height and width.
        """
        return self.map_and_score(image)[0]

    def map_and_score(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """Return `map`, and a score of the whole image in [0, 1], higher = more likely fake.

        The score is the mean of the map; of a decoder that was trained for detection, the sigmoid
        of its pooled logit.
        """
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
            found = probability_maps(logits, *image.shape[:2])[0].cpu().numpy()
            if self._decoder.pooling is None:
                return found, float(found.mean(dtype=np.float64))
            pooled = self._decoder.pooling(logits.float()).double()
            return found, float(pooled.sigmoid()[0])


def _resized(image: np.ndarray, backbone: Backbone) -> torch.Tensor:
    """Return an image (1, 3, height, width) uint8 at the backbone's input size."""
    wanted = backbone.preprocessing
    resized = resize_image(image, wanted.height, wanted.width, wanted.interpolation)
    return torch.from_numpy(resized[None]).permute(0, 3, 1, 2)
