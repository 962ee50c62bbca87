"""How to run a timm network for its intermediate features."""

import inspect
import re
from typing import Any

from torch import Tensor

from declip_pipeline.backbones.tower import Tower
from declip_pipeline.errors import InputError


def timm_tower(network: Any) -> Tower:
    """The tower of a timm network.

    Networks of tokens (ViT, DINO, EVA, ...) have `layer0`.. after each block, before the final
    norm, class and register tokens first. All others have the stages of timm's features_only:
    `layer1`.. in order, or under the network's own names where these are layer1.. (a ResNet, whose
    stem before `layer1` is no layer).
    Raises `InputError` for a network without `forward_intermediates`.
    """
    if not hasattr(network, "forward_intermediates"):
        raise InputError(
            f"timm's {type(network).__name__} gives no intermediate features; "
            "choose an architecture with forward_intermediates"
        )
    stages = list(network.feature_info)
    takes = inspect.signature(network.forward_intermediates).parameters
    if "return_prefix_tokens" in takes and hasattr(network, "num_prefix_tokens"):
        indices = {f"layer{block}": block for block in range(len(stages))}
        return Tower(network, indices, True, _token_blocks)
    own_names = {
        stage["module"]: index
        for index, stage in enumerate(stages)
        if re.fullmatch(r"layer[1-9][0-9]*", stage["module"])
    }
    indices = own_names or {f"layer{index + 1}": index for index in range(len(stages))}
    return Tower(network, indices, False, _stages)


def _token_blocks(
    network: Any, images: Tensor, indices: list[int], output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    # Asked for prefix tokens where there are none, some networks fail and others leave them out.
    has_prefix = network.num_prefix_tokens > 0
    outputs = network.forward_intermediates(
        images,
        indices=indices,
        return_prefix_tokens=has_prefix,
        norm=False,
        stop_early=True,
        output_fmt=output_format,
        intermediates_only=True,
    )
    return list(outputs) if has_prefix else [(patches, None) for patches in outputs]


def _stages(
    network: Any, images: Tensor, indices: list[int], _output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    outputs = network.forward_intermediates(
        images,
        indices=indices,
        norm=False,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return [(grid, None) for grid in outputs]
