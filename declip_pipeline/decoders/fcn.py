"""Fully convolutional head: two 3x3 convolutions on the grid of the features."""

from collections.abc import Sequence

from torch import Tensor, nn

from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.decoders.fusion import as_grid
from declip_pipeline.decoders.names import WIDTHS
from declip_pipeline.features import FeatureShape


class FCNDecoder(PositionDecoder):
    """3x3 to 128 channels, 3x3 to 64, each with BatchNorm and ReLU; then 1x1 to 1.

    For a layer of 16x16x1024, 1.25 M parameters and 321 MMAC an image: 9*C*128 + 9*128*64 + 64 at
    every position. Other widths take the place of 128 and 64.

    Source: the head of Long et al. (CVPR 2015, arXiv 1411.4038) in the form that segmentation
    toolboxes give it, with two convolutions.
    """

    def __init__(
        self,
        shape: FeatureShape,
        output_size: int = 256,
        widths: Sequence[int] = WIDTHS["fcn"],
    ) -> None:
        super().__init__("fcn", shape, output_size)
        first, second = self.widths = tuple(widths)
        self.convolutions = nn.Sequential(
            nn.Conv2d(shape.channels, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Conv2d(second, 1, 1)

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, height, width)."""
        grid = self.convolutions(as_grid(features, self.shape))
        logits: Tensor = self.classify(grid).squeeze(1)
        return logits
