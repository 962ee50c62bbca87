"""Backbones and a decoder as one network, from pictures to maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.predictor import Predictor
from declip_pipeline.store.identity import parts_of


class WholeNetwork(nn.Module):
    """Pictures (N, 3, height, width), uint8 RGB, of the backbones' own input size, to
    probabilities of "manipulated", (N, output_size, output_size) float32 in [0, 1].

    Scaling and normalisation are inside; features are float32, not rounded as in a store.
    """

    def __init__(
        self, backbones: Sequence[Backbone], decoder: Decoder, features: Mapping[str, Any]
    ) -> None:
        """Join a decoder to the backbones of its features, one for each layer that it joins.

        Raises `IdentityMismatchError` naming the field when a backbone gives other features,
        `InputError` for backbones that see pictures resized in different ways, or that are no
        PyTorch networks.
        """
        super().__init__()
        # Checks that they belong together, as for a prediction.
        Predictor(backbones, decoder, features, dtypes=["float32"] * len(backbones))
        self.preprocessing = backbones[0].preprocessing
        for backbone in backbones:
            if not backbone.networks:
                raise InputError(
                    f"{backbone.name} has no PyTorch network, so such a run cannot be exported to "
                    "ONNX"
                )
        ways = {
            f"{p.height}x{p.width} {p.interpolation}": None
            for p in (backbone.preprocessing for backbone in backbones)
        }
        if len(ways) > 1:
            raise InputError(
                f"its backbones see pictures of {' and '.join(ways)}; one graph takes one picture, "
                "so such a run cannot be exported to ONNX"
            )
        layers = [str(part["layer"]) for part in parts_of(features)]
        self._inputs = list(zip(backbones, layers, strict=True))
        networks = [network for backbone in backbones for network in backbone.networks]
        self.networks = nn.ModuleList(dict.fromkeys(networks))
        self.decoder = decoder.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities of a batch of pictures; see the class."""
        inputs = [backbone.features(pictures, [layer])[layer] for backbone, layer in self._inputs]
        logits: Tensor = self.decoder(*inputs)
        return torch.sigmoid(logits.float())
