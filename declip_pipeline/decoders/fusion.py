"""Fusion of the features of several layers, of one backbone or of several."""

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.decoders.normalization import normalized_positions
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode


class FeatureFusion(nn.Module):
    """Joins the features of several layers; `shape` is the shape of the result.

    Sequences with the same grid and prefix tokens stay sequences. All others become grids without
    their prefix tokens, resampled bilinearly (align_corners false) to the finest grid.

    Mode "concat" concatenates channels. "weighted" is a sum with one learned weight for each layer
    (the scalar mix of ELMo, Peters et al., NAACL 2018, section 3.2): a softmax over `scores`, which
    are equal at first. To make the weights comparable, the channels of each position are first
    normalized to mean 0 and variance 1.

    Raises:
        UnknownNameError: Another mode.
        InputError: A weighted sum of features that differ in channels.
    """

    def __init__(self, shapes: Sequence[FeatureShape], mode: FusionMode) -> None:
        super().__init__()
        if mode not in get_args(FusionMode):
            raise UnknownNameError("fusion", mode, get_args(FusionMode))
        channels = [shape.channels for shape in shapes]
        if mode == "weighted" and len(set(channels)) > 1:
            raise InputError(
                f"a weighted sum of features of {', '.join(map(str, channels))} channels; expected "
                'as many in each; take `fusion="concat"`'
            )
        self.shapes = tuple(shapes)
        self.mode = mode
        first = shapes[0]
        alike = {(shape.height, shape.width, shape.prefix_tokens) for shape in shapes}
        self.shape = FeatureShape(
            sum(channels) if mode == "concat" else first.channels,
            max(shape.height for shape in shapes),
            max(shape.width for shape in shapes),
            first.prefix_tokens if len(alike) == 1 else None,
        )
        if mode == "weighted":
            self.scores = nn.Parameter(torch.zeros(len(shapes)))

    def reset_parameters(self) -> None:
        """Set all weights equal."""
        if self.mode == "weighted":
            nn.init.zeros_(self.scores)

    @property
    def weights(self) -> list[float] | None:
        """Weight of each layer in a weighted sum, with a sum of 1; None for a concatenation."""
        if self.mode == "concat":
            return None
        return [float(weight) for weight in self.scores.detach().softmax(0)]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join features (N, *array_shape) of each of `shapes` to (N, *self.shape.array_shape)."""
        if self.shape.is_grid:
            parts = [
                self._resampled(part, shape)
                for part, shape in zip(features, self.shapes, strict=True)
            ]
        else:
            parts = list(features)
        if self.mode == "concat":
            return torch.cat(parts, 1 if self.shape.is_grid else 2)
        weights = self.scores.softmax(0)
        return sum(
            (weight * self._normalized(part) for weight, part in zip(weights, parts, strict=True)),
            torch.zeros_like(parts[0]),
        )

    def _resampled(self, features: Tensor, shape: FeatureShape) -> Tensor:
        return resampled(as_grid(features, shape), self.shape.height, self.shape.width)

    def _normalized(self, features: Tensor) -> Tensor:
        return normalized_positions(features, 1 if self.shape.is_grid else 2)


def as_grid(features: Tensor, shape: FeatureShape) -> Tensor:
    """Return features (N, *shape.array_shape) as (N, channels, height, width), without prefix."""
    if shape.prefix_tokens is None:
        return features
    positions = features[:, shape.prefix_tokens :].transpose(1, 2)
    # Not len(positions), which would fix the batch size of an exported graph.
    return positions.reshape(positions.shape[0], -1, shape.height, shape.width)


def resampled(grid: Tensor, height: int, width: int) -> Tensor:
    """Resize (N, C, h, w) to (N, C, height, width), bilinear, `align_corners` false."""
    if grid.shape[2:] == (height, width):
        return grid
    return F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
