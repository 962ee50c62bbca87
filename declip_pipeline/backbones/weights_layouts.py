"""Layouts of published weights files, brought to the names that open_clip and timm give tensors."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from declip_pipeline.backbones.hugging_face import in_timm_names, is_hugging_face_vit
from declip_pipeline.errors import WeightsError

# OpenAI's files hold these numbers beside the tensors, and no other file of CLIP does.
_OF_OPENAI = frozenset({"input_resolution", "context_length", "vocab_size"})

_OF_HUGGING_FACE = "vision_model."
_HUGGING_FACE = MappingProxyType(
    {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm.": "visual.ln_pre.",
        "vision_model.post_layernorm.": "visual.ln_post.",
    }
)
_HUGGING_FACE_BLOCK = MappingProxyType(
    {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
)
_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def is_openai_file(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a file is one of OpenAI's own, whose networks compute with QuickGELU."""
    return tensors.keys() >= _OF_OPENAI


def is_hugging_face_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are those of a CLIP in the layout of Hugging Face's library."""
    return any(name.startswith(_OF_HUGGING_FACE) for name in tensors)


def clip_tensors(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Return a CLIP's tensors by the names of OpenAI and open_clip, whichever layout they have.

    Of Hugging Face's layout the image network is converted, `visual.*`, and the rest left out.

    Raises:
        WeightsError: A block in Hugging Face's layout is not whole.
    """
    if not is_hugging_face_clip(tensors):
        return dict(tensors)
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        block = _BLOCK.fullmatch(name)
        if block is not None:
            number, part, kind = block.groups()
            place = f"visual.transformer.resblocks.{number}."
            if part in _HUGGING_FACE_BLOCK:
                found[f"{place}{_HUGGING_FACE_BLOCK[part]}.{kind}"] = tensor
            else:
                key = part.removeprefix("self_attn.").removesuffix("_proj")
                joined.setdefault(f"{place}attn.in_proj_{kind}", {})[key] = tensor
        elif name == "visual_projection.weight":
            found["visual.proj"] = tensor.T.contiguous()
        else:
            for theirs, ours in _HUGGING_FACE.items():
                if name.startswith(theirs):
                    found[ours + name.removeprefix(theirs)] = tensor
    for name, parts in joined.items():
        if parts.keys() != {"q", "k", "v"}:
            raise WeightsError(
                f"{source} is a CLIP in Hugging Face's layout, and {name} lacks a part (it has "
                f"{', '.join(sorted(parts))}); give the whole file"
            )
        found[name] = torch.cat([parts[part] for part in "qkv"])
    return found


def timm_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by timm's names; of DINOv2's files and of transformers they are converted.

    DINOv2's files hold a `mask_token` that no feature depends on. Those with registers hold a
    position of the class token, which timm adds to the token itself.
    """
    if is_hugging_face_vit(tensors):
        tensors = in_timm_names(tensors)
    if "mask_token" not in tensors:
        return dict(tensors)
    found = {
        re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", name)): tensor
        for name, tensor in tensors.items()
        if name != "mask_token"
    }
    if {"register_tokens", "cls_token", "pos_embed"} <= found.keys():
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found
