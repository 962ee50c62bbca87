"""All-MLP head: projections of single positions, of several layers together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from declip_pipeline.decoders.projected import ProjectingDecoder
from declip_pipeline.features import FeatureShape

WIDTH = 32
"""Narrow, as trials pointed to (docs/design.md); the source has 256 and more."""


class MLPDecoder(ProjectingDecoder):
    """Each layer 1x1 to 32, resampled to the finest grid, concatenated, 1x1 to 32, 1x1 to 1.

    BatchNorm and ReLU follow the second 1x1. No position sees another, but through resampling. A
    layer of 16x16x1024 takes 0.03 M parameters and 9 MMAC an image, four of them 0.14 M and
    35 MMAC: C*32 and 32*32 a layer, at every position.

    Source: the decoder of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3.2), on
    layers of one backbone or several.
    """

    def __init__(
        self,
        shapes: Sequence[FeatureShape],
        joined_shape: FeatureShape,
        output_size: int = 256,
    ) -> None:
        super().__init__("mlp", shapes, joined_shape, WIDTH, output_size)
        self.fuse = nn.Sequential(
            # BatchNorm has a bias.
            nn.Conv2d(WIDTH * len(shapes), WIDTH, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Conv2d(WIDTH, 1, 1)

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Concatenate the projected layers, (N, 32 * layers, height, width)."""
        return torch.cat(self.projected(features), 1)

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, height, width) of the joined features."""
        logits: Tensor = self.classify(self.fuse(features)).squeeze(1)
        return logits
