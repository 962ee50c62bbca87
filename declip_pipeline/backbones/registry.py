"""From the name of an architecture to an opened backbone."""

import re
from collections.abc import Sequence

from declip_pipeline.backbones.architecture_names import (
    EFFICIENTNET_LITE0,
    FROM_FILE,
    OPENAI_NAMES,
    PIXELS,
    known_architectures,
    unknown_architecture,
)
from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.backbones.fusion import FusedBackbone
from declip_pipeline.errors import InputError

__all__ = ["known_architectures", "open_backbone"]


def open_backbone(arch: str, *, weights: Sequence[str] = (), device: str = "cpu") -> Backbone:
    """Open a backbone by name, frozen, on `device`.

    `arch` is a paper's name ("CLIP:ViT-L/14", "RN50"), "efficientnet-lite0", open_clip's
    "ARCH/TAG", "timm:NAME" or "timm:NAME.TAG", "pixels:SIDE", "CLIP:from-file", or several of these
    separated by commas, which are fused. A backbone's own `name` opens it again. `weights` holds
    nothing, or one entry for each comma part: a file, or "random:SEED".
    Raises `UnknownNameError` for a name, `WeightsError` for weights, `InputError` for the rest.
    """
    names = [name.strip() for name in arch.split(",")]
    if weights and len(weights) != len(names):
        raise InputError(
            f"{len(weights)} weights for the {len(names)} parts of {arch!r}; "
            "give one for each part, in the same order, or none"
        )
    given: Sequence[str | None] = weights or [None] * len(names)
    parts = [_open_part(name, part) for name, part in zip(names, given, strict=True)]
    backbone = parts[0] if len(parts) == 1 else FusedBackbone(parts)
    return backbone.to(device)


def _open_part(text: str, weights: str | None) -> Backbone:
    # Imports are made here so that each kind costs only its own library's start.
    name, weights = _with_seed_of_name(text, weights)
    if name == EFFICIENTNET_LITE0:
        from declip_pipeline.backbones.efficientnet_lite0 import open_efficientnet_lite0

        return open_efficientnet_lite0(weights)
    if name.partition(":")[0] == PIXELS:
        from declip_pipeline.backbones.pixels import open_pixels

        return open_pixels(name, weights)
    if name.startswith("timm:"):
        from declip_pipeline.backbones.timm_backbones import open_timm

        return open_timm(name.removeprefix("timm:"), weights)
    from declip_pipeline.backbones import open_clip_backbones

    if name == FROM_FILE:
        return open_clip_backbones.open_from_file(weights)
    if name.removeprefix("CLIP:") in OPENAI_NAMES:
        return open_clip_backbones.open_openai(name.removeprefix("CLIP:"), weights)
    model, _, tag = name.removeprefix("open_clip:").partition("/")
    if model not in open_clip_backbones.architectures():
        raise unknown_architecture(text)
    return open_clip_backbones.open_any(model, tag or None, weights)


def _with_seed_of_name(text: str, weights: str | None) -> tuple[str, str | None]:
    """A canonical name like "CLIP:RN50[random:0]" taken apart into name and weights."""
    match = re.fullmatch(r"(.+)\[(random:[0-9]+)\]", text)
    if match is None:
        return text, weights
    if weights not in (None, match[2]):
        raise InputError(f"{text!r} asks for random weights, but --weights gives {weights!r}")
    return match[1], match[2]
