"""A network and the way to its intermediate features, and their shapes without computing them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from declip_pipeline.features import FeatureShape

# (network, images, ascending indices, "NLC" or "NCHW") to the (patches, prefix tokens) of each.
Intermediates = Callable[[Any, Tensor, list[int], str], list[tuple[Tensor, Tensor | None]]]


@dataclass(frozen=True)
class Tower:
    """A network, the index of each named layer in order of depth, and how to run it.

    A sequence tower answers to "NLC" with (N, patches, channels) and prefix tokens (N, P, channels)
    or None; every tower answers to "NCHW" with (N, channels, height, width).
    """

    network: nn.Module
    layer_indices: dict[str, int]
    is_sequence: bool
    intermediates: Intermediates


def layer_shapes(tower: Tower, height: int, width: int) -> dict[str, FeatureShape]:
    """Shape of each layer for images of (height, width), in order of depth.

    The network runs on tensors without data: ViT-L/14 takes 0.3 s instead of a forward's seconds.
    """
    names, indices = list(tower.layer_indices), list(tower.layer_indices.values())
    # On a copy that shares the weights: some networks keep tables that they build as they run.
    shared = {id(t): t for t in chain(tower.network.parameters(), tower.network.buffers())}
    network = deepcopy(tower.network, shared)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        images = torch.empty(1, 3, height, width)
        outputs = tower.intermediates(network, images, indices, "NCHW")
    shapes = {}
    for name, (patches, prefix) in zip(names, outputs, strict=True):
        channels, rows, columns = patches.shape[1:]
        prefix_tokens = 0 if prefix is None else prefix.shape[1]
        shapes[name] = FeatureShape(
            channels, rows, columns, prefix_tokens if tower.is_sequence else None
        )
    return shapes
