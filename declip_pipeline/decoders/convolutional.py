"""The convolutional decoders conv-4, conv-12, conv-20: four stages that enlarge step by step."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from declip_pipeline.decoders.decoder import Decoder, positions_as_grid
from declip_pipeline.features import FeatureShape

PAPER_WIDTHS = (512, 256, 128, 64)


def skipped_upsamplings(height: int, width: int, output_size: int = 256) -> int:
    """How many of the four stages leave out their upsampling, so that the map is not passed over.

    The smallest k for which side * 2**(4 - k) <= output_size, at most 4: for 256, sides up to 16
    skip none, 28 one, 56 two, 112 three.
    """
    enlarged_sixteenfold = 16 * max(height, width)
    return min(4, ((enlarged_sixteenfold - 1) // output_size).bit_length())


class ConvolutionalDecoder(Decoder):
    """Four stages of `depth / 4` times (Conv 5x5, BatchNorm, ReLU) and an upsampling x2.

    A bilinear resize to the output size stands before the last convolution, save for tokens whose
    map the stages bring to that size already. The published networks are built so, and the place
    of a module in `fc` is part of its parameters' names.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the convolutional decoders.
    """

    def __init__(
        self,
        depth: int,
        shape: FeatureShape,
        widths: Sequence[int] = PAPER_WIDTHS,
        output_size: int = 256,
    ) -> None:
        super().__init__(f"conv-{depth}", shape, output_size)
        self.widths = tuple(widths)
        skipped = skipped_upsamplings(shape.height, shape.width, output_size)
        layers: list[nn.Module] = []
        for stage, (n_in, n_out) in enumerate(pairwise((shape.channels, *widths))):
            for repeat in range(depth // 4):
                layers.append(nn.Conv2d(n_out if repeat else n_in, n_out, 5, padding=2))
                layers.append(nn.BatchNorm2d(n_out))
                layers.append(nn.ReLU())
            if stage >= skipped:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        growth = 2 ** (4 - skipped)
        reached = (shape.height * growth, shape.width * growth)
        if shape.is_grid or reached != (output_size, output_size):
            size = (output_size, output_size)
            layers.append(nn.Upsample(size=size, mode="bilinear", align_corners=False))
        layers.append(nn.Conv2d(widths[-1], 1, 5, padding=2))
        self.fc = nn.Sequential(*layers)

    def decode(self, features: Tensor) -> Tensor:
        """Logits (N, output_size, output_size)."""
        if not self.shape.is_grid:
            positions = self.without_prefix(features)
            features = positions_as_grid(positions, self.shape.height, self.shape.width)
        logits: Tensor = self.fc(features).squeeze(1)
        return logits
