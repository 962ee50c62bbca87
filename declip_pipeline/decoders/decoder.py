"""What every decoder is: a network from the stored features of one layer to a map of logits."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from declip_pipeline.decoders.enlarging import enlarge
from declip_pipeline.decoders.fusion import FeatureFusion
from declip_pipeline.decoders.pooling import Pooling
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape


class Decoder(nn.Module, ABC):
    """A decoder of one type for one shape of features, or for several that it joins first.

    Called with a batch of stored features, (N, *shape.array_shape), any float dtype; with a
    `fusion`, with one such batch for each of `fusion.shapes`. Returns logits of "manipulated",
    (N, output_size, output_size), in the dtype of the weights (under autocast, in autocast's).
    Raises `InputError` for features of another shape.

    `pooling` makes one logit of a map, where it was trained to tell pictures (detection), and is
    None where it was trained to find pixels.
    """

    # Standard deviation of its initial weights as published; None where they are PyTorch's own.
    published_deviation: float | None = 0.02

    def __init__(self, decoder_type: str, shape: FeatureShape, output_size: int) -> None:
        super().__init__()
        self.decoder_type = decoder_type
        self.shape = shape
        self.output_size = output_size
        self.fusion: FeatureFusion | None = None
        self.pooling: Pooling | None = None

    @property
    def input_shapes(self) -> tuple[FeatureShape, ...]:
        """The shapes of the features that it is called with."""
        return (self.shape,) if self.fusion is None else self.fusion.shapes

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Logits (N, output_size, output_size) of features whose shape and dtype are right."""

    def forward(self, *features: Tensor) -> Tensor:
        """Logits of a batch of stored features; see the class."""
        return self.decode(self.joined(*features))

    def joined(self, *features: Tensor) -> Tensor:
        """Features of the right shapes, in the dtype of the weights, as one."""
        if len(features) != len(self.input_shapes):
            raise InputError(
                f"{self.decoder_type} decoder got features of {len(features)} layers, expected "
                f"{len(self.input_shapes)}; give it those it was built for"
            )
        # Stores keep float16; the weights are mostly float32.
        dtype = next(self.parameters()).dtype
        fitting = []
        for part, shape in zip(features, self.input_shapes, strict=True):
            self._refuse_other_shapes(part, shape.array_shape)
            fitting.append(part.to(dtype))
        return fitting[0] if self.fusion is None else self.fusion(fitting)

    def _refuse_other_shapes(self, features: Tensor, expected: tuple[int, ...]) -> None:
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


class PositionDecoder(Decoder):
    """A decoder that gives a grid of logits, mostly one a position, and enlarges it at the end."""

    @abstractmethod
    def position_logits(self, features: Tensor) -> Tensor:
        """Logits (N, rows, columns) of features whose shape and dtype are right."""

    def decode(self, features: Tensor) -> Tensor:
        """Logits (N, output_size, output_size)."""
        return enlarge(self.position_logits(features), self.output_size)


def positions_as_grid(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (N, height * width, channels) as a grid (N, channels, height, width), not copied.

    The result lies in memory as channels_last, which convolutions like.
    """
    count, _, channels = tokens.shape
    return tokens.transpose(1, 2).view(count, channels, height, width)
