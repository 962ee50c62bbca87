"""The linear decoder: one logit from each position's features."""

from torch import Tensor, nn

from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.features import FeatureShape


class LinearDecoder(PositionDecoder):
    """One Linear(channels, 1) on each position, then bicubic to the output size.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the linear decoder.
    """

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("linear", shape, output_size)
        self.fc = nn.Sequential(nn.Linear(shape.channels, 1))

    def position_logits(self, features: Tensor) -> Tensor:
        """Logits (N, height, width)."""
        if self.shape.is_grid:
            # As the grid lies in memory: a sequence of its positions would be a copy.
            weight, bias = self.fc.parameters()
            logits: Tensor = weight @ features.flatten(2) + bias
        else:
            # Prefix tokens too: cheaper than the copy that a view without them would be.
            logits = self.without_prefix(self.fc(features))
        return logits.reshape(-1, self.shape.height, self.shape.width)
