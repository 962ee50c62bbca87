"""Progressive upsampling head: a convolution on a grid four times as fine as the features'."""

from collections.abc import Sequence

from torch import Tensor, nn

from declip_pipeline.decoders.fusion import resampled
from declip_pipeline.decoders.names import WIDTHS
from declip_pipeline.decoders.projected import ProjectingDecoder
from declip_pipeline.features import FeatureShape

GROWTH = 4


class PUPDecoder(ProjectingDecoder):
    """Each layer 1x1 to 128, their sum; 1x1 to 64; bilinear upsampling x4; 3x3 to 32; 1x1 to 1.

    BatchNorm and GELU stand between. The upsampling ends at half of the map's side, so grids of
    more than 32 positions a side grow by less; those of more than 128 stay as they are. A layer of
    16x16x1024 takes 0.16 M parameters and 111 MMAC an image, four of them 0.55 M and 212 MMAC:
    C*128 a layer and 128*64 at every position, 9*64*32 + 32 at 16 times as many. Other widths take
    the place of 128, 64 and 32.

    Source: progressive upsampling of SETR (Zheng et al., CVPR 2021, arXiv 2012.15840, section
    3.2), in one step, on several layers as in its multi-level aggregation.
    """

    def __init__(
        self,
        shapes: Sequence[FeatureShape],
        joined_shape: FeatureShape,
        output_size: int = 256,
        widths: Sequence[int] = WIDTHS["pup"],
    ) -> None:
        first, second, third = widths
        super().__init__("pup", shapes, joined_shape, first, output_size)
        self.widths = tuple(widths)
        self.coarse = nn.Sequential(
            nn.BatchNorm2d(first),
            nn.GELU(),
            nn.Conv2d(first, second, 1, bias=False),
            nn.BatchNorm2d(second),
            nn.GELU(),
        )
        self.fine = nn.Sequential(
            nn.Conv2d(second, third, 3, padding=1, bias=False),
            nn.BatchNorm2d(third),
            nn.GELU(),
        )
        self.classify = nn.Conv2d(third, 1, 1)
        self._fine_sides = [
            max(side, min(GROWTH * side, output_size // 2))
            for side in (joined_shape.height, joined_shape.width)
        ]

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Add up the projected layers, (N, first width, height, width)."""
        first, *others = self.projected(features)
        return sum(others, first)

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, 4 * height, 4 * width), or fewer; see the class."""
        grid = resampled(self.coarse(features), *self._fine_sides)
        logits: Tensor = self.classify(self.fine(grid)).squeeze(1)
        return logits
