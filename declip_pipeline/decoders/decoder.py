"""Base classes of the decoders: networks from the stored features of a layer to a map of logits."""

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.decoders.fusion import FeatureFusion
from declip_pipeline.decoders.normalization import FeatureNormalization
from declip_pipeline.decoders.pooling import Pooling
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape


class Decoder(nn.Module, ABC):
    """Decoder of one type for features of one shape, or of several shapes that it joins first.

    `forward` takes a batch of stored features, (N, *shape.array_shape) of any float dtype; with a
    `fusion`, one such batch for each of `fusion.shapes`. It returns logits of "manipulated",
    (N, output_size, output_size), in the dtype of the weights (under autocast, in autocast's), and
    raises `InputError` for features of another shape.

    Attributes:
        decoder_type: Name of the type, as `build_decoder` takes it.
        shape: Shape of the features that are decoded, after `fusion`.
        output_size: Side of the map in pixels.
        normalization: Normalizes the features of each layer before they are joined; None leaves
            them as they are.
        fusion: Joins the features of several layers; None for one layer.
        pooling: Reduces a map to one logit, for detection; None for localization.
        widths: Channels of its stages; None for a type that has no choice of them.
    """

    # Standard deviation of the published initial weights; None where those are PyTorch's own.
    published_deviation: float | None = None

    def __init__(self, decoder_type: str, shape: FeatureShape, output_size: int) -> None:
        super().__init__()
        self.decoder_type = decoder_type
        self.shape = shape
        self.output_size = output_size
        self.normalization: FeatureNormalization | None = None
        self.fusion: FeatureFusion | None = None
        self.pooling: Pooling | None = None
        self.widths: tuple[int, ...] | None = None

    @property
    def input_shapes(self) -> tuple[FeatureShape, ...]:
        """Shapes of the features that `forward` takes, in order."""
        return (self.shape,) if self.fusion is None else self.fusion.shapes

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Return logits (N, output_size, output_size) of features of the right shape and dtype."""

    def draw_weights(self) -> None:
        """Draw all parameters again with PyTorch's defaults, and reset running statistics."""
        self.apply(draw_defaults)

    def forward(self, *features: Tensor) -> Tensor:
        """Return the logits of a batch of stored features; see the class."""
        return self.decode(self.joined(*features))

    def joined(self, *features: Tensor) -> Tensor:
        """Check, convert and normalize the features, see `prepared`, and join them."""
        fitting = self.prepared(*features)
        return fitting[0] if self.fusion is None else self.fusion(fitting)

    def prepared(self, *features: Tensor) -> list[Tensor]:
        """Check the features, convert them to the dtype of the weights, and normalize them."""
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
        return fitting if self.normalization is None else self.normalization(fitting)

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
        """Return features as (N, tokens, channels): prefix tokens, then positions row by row."""
        return features.flatten(2).transpose(1, 2) if self.shape.is_grid else features

    def without_prefix(self, tokens: Tensor) -> Tensor:
        """Return the tokens of the positions, (N, height * width, channels)."""
        return tokens[:, self.shape.prefix_tokens or 0 :]


class PositionDecoder(Decoder):
    """Decoder that computes a small grid of logits, mostly one a position, and enlarges it."""

    @abstractmethod
    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, rows, columns) of features of the right shape and dtype."""

    def decode(self, features: Tensor) -> Tensor:
        """Return logits (N, output_size, output_size)."""
        return enlarge(self.position_logits(features), self.output_size)


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Resize maps (N, h, w) to (N, size, size), bicubic, `align_corners` false.

    Equal to `F.interpolate` up to rounding: bicubic interpolation is linear and separable, hence
    two products with matrices. From 16x16 to 256x256 these take a tenth of the time
    (benchmarks/light_decoders.py).
    """
    with torch.autocast(maps.device.type, enabled=False):
        exact = maps.float()
        rows, columns = (bicubic_matrix(side, size, maps.device) for side in maps.shape[1:])
        return (rows @ exact @ columns.T).to(maps.dtype)


def probability_maps(logits: Tensor, height: int, width: int) -> Tensor:
    """Apply the sigmoid, then resize: logits (N, h, w) to (N, height, width) float32 in [0, 1].

    Source: the reference's test protocol, in this order (DeCLIP, arXiv 2409.08849).
    """
    return resized_maps(torch.sigmoid(logits.float()), height, width)


def resized_maps(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize maps (N, h, w) float32 in [0, 1] to (N, height, width), bilinearly."""
    if maps.shape[1:] == (height, width):
        return maps
    resized = F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)
    # Interpolation may leave [0, 1] by a rounding error.
    return resized[:, 0].clamp_(0, 1)


@lru_cache(maxsize=64)
def bicubic_matrix(n_in: int, n_out: int, device: torch.device) -> Tensor:
    """Return the float32 matrix (n_out, n_in) that interpolates `n_in` values at `n_out` places."""
    # The cached matrix must belong neither to a trace nor to inference mode.
    with torch.inference_mode(False), torch.no_grad():
        lines = torch.eye(n_in)[None, None]
        matrix = F.interpolate(lines, (n_out, n_in), mode="bicubic", align_corners=False)[0, 0]
        return matrix.to(device)


def draw_defaults(module: nn.Module) -> None:
    """Draw one module's own parameters; `Module.apply` visits the children first."""
    draw = getattr(module, "reset_parameters", None)
    if draw is not None:
        draw()
