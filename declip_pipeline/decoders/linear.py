"""The linear decoder: one logit from each position's features."""

from torch import Tensor, nn

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feature_shape import FeatureShape


class LinearDecoder(Decoder):
    """One Linear(channels, 1) on each position, then bicubic to the output size.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the linear decoder.
    """

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("linear", shape, output_size)
        self.fc = nn.Sequential(nn.Linear(shape.channels, 1))

    def decode(self, features: Tensor) -> Tensor:
        """Logits (N, output_size, output_size)."""
        positions = self.without_prefix(self.tokens(features))
        return self.enlarged(self.fc(positions).squeeze(2))
