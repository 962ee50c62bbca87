"""A mask for a single picture: backbone and decoder in one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.evaluation.maps import probability_maps
from declip_pipeline.feature_dtype import rounded_features
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.identity import feature_identity, require_same_features


class Predictor:
    """Maps of manipulated pixels for pictures of any size."""

    def __init__(
        self, backbone: Backbone, decoder: Decoder, features: Mapping[str, Any], *, dtype: str
    ) -> None:
        """Join a decoder to the backbone of its features.

        `features` is the identity the decoder was trained on; `dtype` is that of the store it was
        trained from, so that it sees features rounded alike. Raises `IdentityMismatchError`
        naming the field when the backbone gives other features.
        """
        layer = features["layer"]
        found = feature_identity(
            backbone.name,
            backbone.weights_sha256,
            backbone.preprocessing.to_json(),
            layer,
            backbone.layers.get(layer, decoder.shape),
        )
        require_same_features(features, found, decoder="the run", features="the backbone")
        self._backbone = backbone
        self._decoder = decoder.eval()
        self._layer: str = layer
        self._dtype = dtype

    def map(self, image: np.ndarray) -> np.ndarray:
        """Probability of "manipulated" for each pixel.

        `image` is HWC uint8 RGB; returns HW float32 in [0, 1] of the same height and width.
        """
        wanted = self._backbone.preprocessing
        picture = resize_image(image, wanted.height, wanted.width, wanted.interpolation)
        batch = torch.from_numpy(picture[None]).permute(0, 3, 1, 2)
        features = self._backbone.forward(batch, [self._layer])[self._layer]
        with torch.inference_mode():
            is_grid = self._decoder.shape.is_grid
            logits = self._decoder(rounded_features(features, self._dtype, is_grid=is_grid))
            return probability_maps(logits, *image.shape[:2])[0].cpu().numpy()
