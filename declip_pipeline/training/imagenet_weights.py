"""ImageNet weights for a decoder that is the beginning of a known network."""

from pathlib import Path

import torch
from torch import Tensor, nn

from declip_pipeline.backbones.weights import differences, download, is_weight, read_tensors
from declip_pipeline.errors import WeightsError

ARCH = "timm's legacy_xception"


def imagenet_tensors(trunk: nn.Module, file: str | None) -> dict[str, Tensor]:
    """The ImageNet weights of timm's `legacy_xception` for its first layers, by name, on the CPU.

    `trunk` is these layers, with any values. `file` holds the weights, and may hold those of the
    layers behind; None takes timm's, downloaded once into torch's own cache.
    Raises `WeightsError` when they cannot be had, or one is missing or of another shape.
    """
    path = Path(file) if file is not None else _downloaded()
    parts = [name for name, _ in trunk.named_children()]
    found = {
        name: tensor
        for name, tensor in read_tensors(path).items()
        if name.partition(".")[0] in parts and is_weight(name)
    }
    faults = differences(trunk.state_dict(), found)
    if faults:
        raise WeightsError(
            f"weights {path} are not those of {ARCH} ({'; '.join(faults)}); give a file of them "
            "with `initial_weights`, or leave it out to download them"
        )
    return found


def _downloaded() -> Path:
    # timm takes seconds to import.
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg("legacy_xception")
    assert config is not None and isinstance(config.url, str)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(config.url).name)
    ways_out = (
        "connect to the internet once, give the file with `initial_weights`, or take another "
        "`initialization`"
    )
    download(ARCH, config.url, path, ways_out=ways_out)
    return path
