"""The image networks of open_clip, and how to run each kind."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from declip_pipeline.backbones.timm_tower import timm_tower
from declip_pipeline.backbones.tower import Intermediates, Tower


def build_visual(embed_dim: int, vision: Mapping[str, Any], quick_gelu: bool) -> nn.Module:
    """The image network of a CLIP with this `vision` configuration, freshly initialised.

    The text network beside it is made as small as open_clip allows and dropped. For ViT-L/14 on
    2 cores that takes 3 s where `create_model` takes 13, and it spares the text networks that
    need further packages.
    """
    clip = open_clip.CLIP(
        embed_dim,
        open_clip.CLIPVisionCfg(**{**vision, "timm_model_pretrained": False}),
        open_clip.CLIPTextCfg(context_length=1, vocab_size=1, width=1, heads=1, layers=1),
        quick_gelu=quick_gelu,
    )
    visual: nn.Module = clip.visual
    return visual


def open_clip_tower(visual: Any) -> Tower:
    """The tower of any image network that open_clip builds.

    Layers of a ViT are `layer0`.. after each residual block, before the final norm; of a
    ModifiedResNet `layer1`..`layer4`; of a timm network as `timm_tower` names them.
    """
    if isinstance(visual, TimmModel):
        inner = timm_tower(visual.trunk)
        of_trunk = partial(_of_trunk, inner.intermediates)
        return Tower(visual, inner.layer_indices, inner.is_sequence, of_trunk)
    if isinstance(visual, ModifiedResNet):
        indices = {f"layer{stage}": stage for stage in range(1, 5)}
        return Tower(visual, indices, False, _resnet_stages)
    depth = len(visual.transformer.resblocks)
    indices = {f"layer{block}": block for block in range(depth)}
    return Tower(visual, indices, True, _vit_blocks)


def _of_trunk(
    run: Intermediates, visual: Any, images: Tensor, indices: list[int], output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    return run(visual.trunk, images, indices, output_format)


def _vit_blocks(
    visual: Any, images: Tensor, indices: list[int], output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    output = visual.forward_intermediates(
        images,
        indices=indices,
        stop_early=True,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt=output_format,
        output_extra_tokens=True,
    )
    return list(
        zip(output["image_intermediates"], output["image_intermediates_prefix"], strict=True)
    )


def _resnet_stages(
    visual: Any, images: Tensor, indices: list[int], _output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    # Not forward_intermediates: in open_clip 3.3 its stop_early means the opposite here.
    features = visual.stem(images)
    stages = {}
    for stage in range(1, max(indices) + 1):
        features = stages[stage] = getattr(visual, f"layer{stage}")(features)
    return [(stages[index], None) for index in indices]
