"""Names of a vision transformer's tensors in Hugging Face's transformers, and in timm."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# A ViT's, a DINOv2's and a DINOv2's with registers; what other models hold beside is kept as named.
_NAMES = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (
        r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.",
        r"blocks.\1.mlp.fc1.",
    ),
    (
        r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.",
        r"blocks.\1.mlp.fc2.",
    ),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.", "norm."),
)
_QUERY = re.compile(
    r"((?:\w+\.)?)encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)"
)


def is_hugging_face_vit(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of a ViT or a DINOv2 in transformers."""
    return any(_QUERY.fullmatch(name) for name in tensors)


def in_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names; query, key and value are joined in this order.

    A prefix such as "dinov2." or "vit." is dropped. Names that are not of the network stay.
    """
    found: dict[str, Tensor] = {}
    rest = dict(tensors)
    prefix = ""
    for name in tensors:
        match = _QUERY.fullmatch(name)
        if match is None:
            continue
        prefix, block, kind = match.groups()
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in rest for part in parts):
            found[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([rest.pop(p) for p in parts])
    for name, tensor in rest.items():
        own = name.removeprefix(prefix)
        for pattern, replacement in _NAMES:
            renamed, count = re.subn(rf"\A{pattern}", replacement, own)
            if count:
                own = renamed
                break
        found[own] = tensor
    return found
