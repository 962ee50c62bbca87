"""Normalization of features before they are joined and decoded."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import Normalization

EPSILON = 1e-5
"""Added to variances, as PyTorch's normalizations do."""


class FeatureNormalization(nn.Module):
    """Normalizes the features of each layer; shapes and order are kept.

    "channel" subtracts each channel's mean and divides by its standard deviation, both over the
    positions of the training images: prefix tokens are not part of the statistics, but are
    normalized by them. The statistics are buffers, and so part of a decoder's state; before `fit`
    they change nothing. "instance" takes both over the positions of each image instead (Ulyanov et
    al., 2016, arXiv 1607.08022), so that what distinguishes images is gone, and what distinguishes
    the positions of one image is left. "layernorm" normalizes the channels of each token or
    position to mean 0 and variance 1 (Ba et al., 2016, arXiv 1607.06450). Neither has learned
    parameters or needs statistics of the training images.

    Raises `UnknownNameError` for another mode.
    """

    def __init__(self, shapes: Sequence[FeatureShape], mode: Normalization) -> None:
        super().__init__()
        if mode not in get_args(Normalization)[1:]:
            raise UnknownNameError("normalization", mode, get_args(Normalization))
        self.shapes = tuple(shapes)
        self.mode = mode
        if mode == "channel":
            for number, shape in enumerate(shapes):
                self.register_buffer(f"mean_{number}", torch.zeros(shape.channels))
                self.register_buffer(f"deviation_{number}", torch.ones(shape.channels))
            self.register_buffer("positions", torch.zeros((), dtype=torch.int64))

    @property
    def is_fitted(self) -> bool:
        """Return whether nothing is left to be fitted."""
        return self.mode != "channel" or int(self.get_buffer("positions")) > 0

    def fit(self, statistics: Sequence[tuple[Tensor, Tensor]], positions: int) -> None:
        """Set the statistics.

        Args:
            statistics: Mean and standard deviation (channels,) of each layer, the latter above 0.
            positions: Number of positions of the first layer that were seen.
        """
        for number, (mean, deviation) in enumerate(statistics):
            self.get_buffer(f"mean_{number}").copy_(mean)
            self.get_buffer(f"deviation_{number}").copy_(deviation)
        self.get_buffer("positions").fill_(positions)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Normalize features (N, *array_shape) of each of `shapes`."""
        if self.mode == "instance":
            return [
                normalized_images(part, shape)
                for part, shape in zip(features, self.shapes, strict=True)
            ]
        if self.mode == "layernorm":
            return [
                normalized_positions(part, 1 if shape.is_grid else 2)
                for part, shape in zip(features, self.shapes, strict=True)
            ]
        return [
            (part - self._of_channels("mean", number)) / self._of_channels("deviation", number)
            for number, part in enumerate(features)
        ]

    def _of_channels(self, name: str, number: int) -> Tensor:
        """Return a layer's statistic in the shape of its features."""
        values = self.get_buffer(f"{name}_{number}")
        return values[:, None, None] if self.shapes[number].is_grid else values


def normalized_images(features: Tensor, shape: FeatureShape) -> Tensor:
    """Normalize each channel over the positions of each image to mean 0 and variance 1.

    Prefix tokens are not part of the statistics, but are normalized by them.
    """
    axes = (2, 3) if shape.is_grid else (1,)
    places = features if shape.is_grid else features[:, shape.prefix_tokens or 0 :]
    mean = places.mean(axes, keepdim=True)
    variance = (places - mean).square().mean(axes, keepdim=True)
    return (features - mean) * torch.rsqrt(variance + EPSILON)


def normalized_positions(features: Tensor, axis: int) -> Tensor:
    """Normalize the channels of each position, along `axis`, to mean 0 and variance 1."""
    centred = features - features.mean(axis, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axis, keepdim=True) + EPSILON)
