"""What every decoder is: a network from the stored features of one layer to a map of logits."""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.errors import InputError
from declip_pipeline.feature_shape import FeatureShape


class Decoder(nn.Module, ABC):
    """A decoder of one type for one shape of features.

    Called with a batch of stored features, (N, *shape.array_shape), any float dtype; returns
    logits of "manipulated", (N, output_size, output_size), in the dtype of the weights (under
    autocast, in autocast's). Raises `InputError` for features of another shape.
    """

    def __init__(self, decoder_type: str, shape: FeatureShape, output_size: int) -> None:
        super().__init__()
        self.decoder_type = decoder_type
        self.shape = shape
        self.output_size = output_size

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Logits (N, output_size, output_size) of features whose shape and dtype are right."""

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a batch of stored features; see the class."""
        self._refuse_other_shapes(features)
        # Stores keep float16; the weights are mostly float32.
        return self.decode(features.to(next(self.parameters()).dtype))

    def _refuse_other_shapes(self, features: Tensor) -> None:
        expected = self.shape.array_shape
        if tuple(features.shape[1:]) != expected:
            raise InputError(
                f"{self.decoder_type} decoder got features of shape {tuple(features.shape)}, "
                f"expected (N, {', '.join(map(str, expected))}); "
                "give it the layer it was built for"
            )
        if not features.is_floating_point():
            raise InputError(
                f"{self.decoder_type} decoder got features of dtype {features.dtype}, "
                "expected floating point; turn stored integers back into features first"
            )

    def tokens(self, features: Tensor) -> Tensor:
        """Features as a sequence (N, tokens, channels): prefix tokens, then rows of positions."""
        return features.flatten(2).transpose(1, 2) if self.shape.is_grid else features

    def without_prefix(self, tokens: Tensor) -> Tensor:
        """The tokens of the picture's positions alone, (N, height * width, channels)."""
        return tokens[:, self.shape.prefix_tokens or 0 :]

    def enlarged(self, logits: Tensor) -> Tensor:
        """Logits (N, height * width) as a map (N, output_size, output_size), bicubic."""
        grid = logits.reshape(-1, 1, self.shape.height, self.shape.width)
        size = (self.output_size, self.output_size)
        return F.interpolate(grid, size, mode="bicubic", align_corners=False).squeeze(1)


def positions_as_grid(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (N, height * width, channels) as a grid (N, channels, height, width), not copied.

    The result lies in memory as channels_last, which convolutions like.
    """
    count, _, channels = tokens.shape
    return tokens.transpose(1, 2).view(count, channels, height, width)
