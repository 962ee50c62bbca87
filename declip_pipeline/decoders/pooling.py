"""From a map of logits to one logit of the picture: what detection is trained on."""

import math
from abc import ABC, abstractmethod
from typing import get_args

import torch
from torch import Tensor, nn

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.options import PoolingName


class Pooling(nn.Module, ABC):
    """Called with maps of logits (N, height, width), float32; returns (N,) float32."""

    name: PoolingName

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """One logit of each picture."""


class MeanPooling(Pooling):
    """The mean over the map. Source: DeCLIP (arXiv 2409.08849), image-level detection."""

    name = "mean"

    def forward(self, logits: Tensor) -> Tensor:
        """One logit of each picture."""
        return logits.mean(dim=(1, 2))


class MaxPooling(Pooling):
    """The highest logit; its gradient goes to that one pixel, of equal ones to the first."""

    name = "max"

    def forward(self, logits: Tensor) -> Tensor:
        """One logit of each picture."""
        return logits.flatten(1).max(dim=1).values


class LearnedPooling(Pooling):
    """Log-mean-exp with a learned sharpness r: log(mean(exp(r x))) / r.

    Near r = 0 it is the mean, for large r the maximum. r = exp(log_sharpness), the one number that
    is learned, begins at 1.
    Source: Pinheiro and Collobert, CVPR 2015 (arXiv 1411.6228), equation 5, where r is fixed.
    """

    name = "learned"

    def __init__(self) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Begin anew, at r = 1."""
        nn.init.zeros_(self.log_sharpness)

    def forward(self, logits: Tensor) -> Tensor:
        """One logit of each picture."""
        sharpness = self.log_sharpness.exp()
        flat = logits.flatten(1)
        total = torch.logsumexp(sharpness * flat, dim=1)
        return (total - math.log(flat.shape[1])) / sharpness


def build_pooling(name: str) -> Pooling:
    """The pooling of a name. Raises `UnknownNameError`."""
    for kind in (MeanPooling, MaxPooling, LearnedPooling):
        if kind.name == name:
            return kind()
    raise UnknownNameError("pooling", name, get_args(PoolingName))
