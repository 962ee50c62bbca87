"""All-MLP head: projections of single positions, of several layers together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from declip_pipeline.decoders.names import WIDTHS
from declip_pipeline.decoders.projected import ProjectingDecoder
from declip_pipeline.features import FeatureShape


class MLPDecoder(ProjectingDecoder):
    """Each layer 1x1 to 32, resampled to the finest grid, concatenated, 1x1 to 32, 1x1 to 1.

    BatchNorm and ReLU follow the second 1x1. No position sees another, but through resampling. A
    layer of 16x16x1024 takes 0.03 M parameters and 9 MMAC an image, four of them 0.14 M and
    35 MMAC: C*32 and 32*32 a layer, at every position.

    Another width takes the place of 32, which is narrow: the source has 256 and more, trials
    pointed to fewer (docs/design.md).

    Source: the decoder of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3.2), on
    layers of one backbone or several.
    """

    def __init__(
        self,
        shapes: Sequence[FeatureShape],
        joined_shape: FeatureShape,
        output_size: int = 256,
        widths: Sequence[int] = WIDTHS["mlp"],
    ) -> None:
        (width,) = widths
        super().__init__("mlp", shapes, joined_shape, width, output_size)
        self.widths = tuple(widths)
        self.fuse = nn.Sequential(
            # BatchNorm has a bias.
            nn.Conv2d(width * len(shapes), width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Conv2d(width, 1, 1)

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Concatenate the projected layers, (N, width * layers, height, width of the grid)."""
        return torch.cat(self.projected(features), 1)

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, height, width) of the joined features."""
        logits: Tensor = self.classify(self.fuse(features)).squeeze(1)
        return logits
