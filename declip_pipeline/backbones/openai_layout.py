"""The architecture of an OpenAI CLIP, read off the names and shapes of its weights."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from declip_pipeline.errors import WeightsError


def vision_of_openai_file(
    tensors: Mapping[str, Tensor], *, source: str
) -> tuple[int, dict[str, Any]]:
    """Width of the embedding and open_clip's vision configuration, heads 64 wide.

    Raises `WeightsError` when the tensors are not in OpenAI's layout.
    """
    try:
        if "visual.proj" in tensors:
            return tensors["visual.proj"].shape[1], _vit(tensors)
        return tensors["visual.attnpool.c_proj.weight"].shape[0], _resnet(tensors)
    except KeyError as error:
        raise WeightsError(
            f"{source} is not in OpenAI's CLIP layout (no tensor {error.args[0]}); "
            "name its architecture with --arch"
        ) from error


def _vit(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
    grid = isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    return {
        "layers": _count(tensors, "visual.transformer.resblocks."),
        "width": width,
        "patch_size": patch_size,
        "image_size": patch_size * grid,
    }


def _resnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    grid = isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
    return {
        "layers": [_count(tensors, f"visual.layer{stage}.") for stage in range(1, 5)],
        "width": tensors["visual.layer1.0.conv1.weight"].shape[0],
        "image_size": 32 * grid,
    }


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks stand under `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
