"""Pooling of a map of logits to one logit of the image, for detection."""

import math
from abc import ABC, abstractmethod
from typing import get_args

import torch
from torch import Tensor, nn

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.options import PoolingName


class Pooling(nn.Module, ABC):
    """Pools maps of logits (N, height, width), float32, to (N,) float32."""

    name: PoolingName

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """Return one logit for each image."""


class MeanPooling(Pooling):
    """Mean over the map. Source: DeCLIP (arXiv 2409.08849), image-level detection."""

    name = "mean"

    def forward(self, logits: Tensor) -> Tensor:
        """Return one logit for each image."""
        return logits.mean(dim=(1, 2))


class MaxPooling(Pooling):
    """Maximum of the map; its gradient goes to that pixel alone, of equal ones to the first."""

    name = "max"

    def forward(self, logits: Tensor) -> Tensor:
        """Return one logit for each image."""
        return logits.flatten(1).max(dim=1).values


class LearnedPooling(Pooling):
    """Log-mean-exp with a learned sharpness r: log(mean(exp(r x))) / r.

    It approaches the mean for r to 0 and the maximum for large r. The one learned parameter is
    `log_sharpness`, with r = exp(log_sharpness) = 1 at first.

    Source: Pinheiro and Collobert, CVPR 2015 (arXiv 1411.6228), equation 5, where r is fixed.
    """

    name = "learned"

    def __init__(self) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Reset to r = 1."""
        nn.init.zeros_(self.log_sharpness)

    def forward(self, logits: Tensor) -> Tensor:
        """Return one logit for each image."""
        sharpness = self.log_sharpness.exp()
        flat = logits.flatten(1)
        total = torch.logsumexp(sharpness * flat, dim=1)
        return (total - math.log(flat.shape[1])) / sharpness


def build_pooling(name: str) -> Pooling:
    """Build the pooling with a name. Raises `UnknownNameError`."""
    for kind in (MeanPooling, MaxPooling, LearnedPooling):
        if kind.name == name:
            return kind()
    raise UnknownNameError("pooling", name, get_args(PoolingName))
