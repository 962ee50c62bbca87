"""Backbones from open_clip: OpenAI's CLIP under the paper's names, and any architecture and tag."""

from collections.abc import Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from declip_pipeline.backbones.backbone import Preprocessing, Size, require_multiple
from declip_pipeline.backbones.from_timm import resize, timm_tower
from declip_pipeline.backbones.network import Intermediates, NetworkBackbone, Tower
from declip_pipeline.backbones.weights import (
    N_SHOWN,
    from_hub,
    initialized_from,
    load_strictly,
    name_with_seed,
    random_seed,
)
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.backbones.weights_layouts import (
    clip_tensors,
    is_hugging_face_clip,
    is_openai_file,
)
from declip_pipeline.errors import UnknownNameError, WeightsError

RESNET_STRIDE = 32


def is_known(name: str) -> bool:
    """Return whether open_clip has the architecture of "ARCH" or "ARCH/TAG"."""
    return name.removeprefix("open_clip:").partition("/")[0] in open_clip.list_models()


def open_openai(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open one of OpenAI's CLIPs by the paper's name, "CLIP:ViT-L/14"; bilinear as in the paper.

    Raises `WeightsError` when the weights cannot be fetched or do not fit.
    """
    paper_name = name.removeprefix("CLIP:")
    arch = paper_name.replace("/", "-").replace("@336px", "-336") + "-quickgelu"
    return _open(f"CLIP:{paper_name}", arch, "openai", weights, size, interpolation="bilinear")


def open_any(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open "ARCH/TAG" with the mean, std and interpolation of its tag.

    A tag that was trained with QuickGELU gets it whether or not the name says so. Raises
    `UnknownNameError` for a tag, `WeightsError` for weights.
    """
    arch, tag = architecture_and_tag(name, weights)
    if (
        tag is not None
        and open_clip.get_pretrained_cfg(arch, tag).get("quick_gelu")
        and f"{arch}-quickgelu" in open_clip.list_models()
    ):
        arch += "-quickgelu"
    canonical = f"open_clip:{arch}" + (f"/{tag}" if tag else "")
    return _open(canonical, arch, tag, weights, size, interpolation=None)


def architecture_and_tag(name: str, weights: str | None) -> tuple[str, str | None]:
    """Return the architecture and the tag of "ARCH/TAG"; "ARCH" alone has none, and needs weights.

    Raises `UnknownNameError` for a tag, `WeightsError` without a tag and weights.
    """
    arch, _, given_tag = name.removeprefix("open_clip:").partition("/")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    # As open_clip reads tags itself; the canonical name has one spelling.
    tag = given_tag.lower().replace("-", "_") or None
    if tag is not None and not open_clip.is_pretrained_cfg(arch, tag):
        raise UnknownNameError(f"tag of open_clip's {arch}", tag, tags)
    if tag is None and weights is None:
        known = f"a tag ({', '.join(f'{arch}/{tag}' for tag in tags)}) or " if tags else ""
        raise WeightsError(f"{arch} alone does not say which weights; give {known}`weights=FILE`")
    return arch, tag


def open_from_file(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open a CLIP in OpenAI's layout with the architecture that its weights file implies.

    It is computed with QuickGELU, as all of OpenAI's are. Raises `WeightsError` without a file,
    when it is not in that layout, or when it has the shapes of an architecture of open_clip's and
    does not say which activation it was trained with.
    """
    file = require_given_file(name, weights)
    source = f"weights {file}"
    file_tensors = read_tensors(file)
    tensors = clip_tensors(file_tensors, source=source)
    embed_dim, vision = _openai_configuration(tensors, source=source)
    if not is_openai_file(file_tensors):
        _refuse_unknown_activation(embed_dim, vision, file_tensors, source=source)
    with initialized_from(None):
        visual = build_visual(embed_dim, vision_of_size(vision, size, name), quick_gelu=True)
    own_positions = positions_of(vision)
    _load_visual(visual, tensors, arch=name, source=source, own_positions=own_positions)
    return _backbone(name, visual, {}, "bilinear", size)


def require_given_file(name: str, weights: str | None) -> Path:
    """Return the file that the weights are. Raises `WeightsError` for none, and for random ones."""
    if weights is None or random_seed(weights) is not None:
        raise WeightsError(f"{name} reads the architecture off a file; give `weights=FILE`")
    return Path(weights)


def build_visual(embed_dim: int, vision: Mapping[str, Any], quick_gelu: bool) -> nn.Module:
    """Return the image network of a CLIP with this `vision` configuration, newly initialized.

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
    """Return the tower of any image network that open_clip builds.

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


def _open(
    name: str,
    arch: str,
    tag: str | None,
    weights: str | None,
    size: Size | None,
    *,
    interpolation: str | None,
) -> NetworkBackbone:
    model = open_clip.get_model_config(arch)
    pretrained = open_clip.get_pretrained_cfg(arch, tag) if tag else {}
    quick_gelu = bool(model.get("quick_gelu") or pretrained.get("quick_gelu"))
    seed = random_seed(weights)
    tensors: dict[str, Tensor] = {}
    if seed is None:
        # Before the network is built, so that a wrong path or a missing hub is reported at once.
        path = weights or from_hub(name, lambda: str(open_clip.download_pretrained(pretrained)))
        source = f"weights {path}"
        file_tensors = read_tensors(Path(path))
        if is_openai_file(file_tensors) and not quick_gelu:
            arch = _with_quick_gelu(arch, name, tag, source=source)
            name, quick_gelu = f"open_clip:{arch}", True
        tensors = clip_tensors(file_tensors, source=source)
    with initialized_from(seed):
        vision = vision_of_size(model["vision_cfg"], size, name)
        visual = build_visual(model["embed_dim"], vision, quick_gelu)
    if seed is None:
        own_positions = positions_of(model["vision_cfg"])
        _load_visual(visual, tensors, arch=name, source=source, own_positions=own_positions)
    return _backbone(
        name_with_seed(name, seed),
        visual,
        pretrained,
        interpolation or pretrained.get("interpolation", "bicubic"),
        size,
    )


def _with_quick_gelu(arch: str, name: str, tag: str | None, *, source: str) -> str:
    """Return the architecture that a file of OpenAI's belongs to, where another was named."""
    own = f"{arch}-quickgelu"
    is_known_arch = own in open_clip.list_models()
    if tag is None and is_known_arch:
        return own
    raise WeightsError(
        f"{source} is OpenAI's, whose networks compute with QuickGELU, and {name} computes with "
        f'GELU; take `arch="{own if is_known_arch else "CLIP:from-file"}"`'
    )


def _refuse_unknown_activation(
    embed_dim: int, vision: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str
) -> None:
    """Raise `WeightsError` for a file that leaves the activation open where two would fit."""
    fitting = [arch for arch in open_clip.list_models() if _has_shape(arch, embed_dim, vision)]
    fitting.sort(key=len)
    if not fitting and not is_hugging_face_clip(tensors):
        return
    kind = (
        "a CLIP in Hugging Face's layout"
        if is_hugging_face_clip(tensors)
        else "not one of OpenAI's own files"
    )
    names = " or ".join(f'`arch="{arch}"`' for arch in fitting[:N_SHOWN]) or "`arch`"
    raise WeightsError(
        f"{source} is {kind}, and does not say whether the network computes with QuickGELU (as "
        f"OpenAI's) or GELU (as most others); name its architecture with {names}"
    )


def _has_shape(arch: str, embed_dim: int, vision: Mapping[str, Any]) -> bool:
    """Return whether an architecture's image network has this configuration."""
    config = open_clip.get_model_config(arch)
    own = config["vision_cfg"]
    defaults = {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224}
    return (
        config["embed_dim"] == embed_dim
        and not {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys()
        and set(own) <= {*defaults, "head_width", "mlp_ratio"}
        and all(own.get(key, defaults.get(key)) == value for key, value in vision.items())
    )


def _load_visual(
    visual: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    arch: str,
    source: str,
    own_positions: int | None,
) -> None:
    """Load the image network; its positions are resized where they are as many as is its own."""
    prefix = "visual."
    images_only = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if not images_only:
        raise WeightsError(
            f"{source} holds no tensor named visual.*, so it is no CLIP; {arch} needs the weights "
            "of an OpenAI or open_clip model"
        )
    positions = images_only.get("positional_embedding")
    if hasattr(visual, "grid_size") and positions is not None and len(positions) == own_positions:
        # Of a ViT for images of another size, open_clip's own interpolation.
        state = {f"{prefix}{name}": tensor for name, tensor in images_only.items()}
        resize_pos_embed(state, SimpleNamespace(visual=visual))
        images_only = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    load_strictly(visual, images_only, arch=arch, source=source)


def vision_of_size(vision: Mapping[str, Any], size: Size | None, name: str) -> Mapping[str, Any]:
    """Return the configuration of a ViT for images of another size; that of others is unchanged.

    Raises `InputError` for sides that are no multiples of its patch.
    """
    if size is None or "timm_model_name" in vision or not isinstance(vision.get("layers", 0), int):
        return vision
    require_multiple(name, size, vision.get("patch_size", open_clip.CLIPVisionCfg.patch_size))
    return {**vision, "image_size": size}


def positions_of(vision: Mapping[str, Any]) -> int | None:
    """Return the number of embeddings of positions of a ViT's configuration; None of others."""
    if "timm_model_name" in vision or not isinstance(vision.get("layers", 0), int):
        return None
    config = open_clip.CLIPVisionCfg(**vision)
    sides = [config.image_size] * 2 if isinstance(config.image_size, int) else config.image_size
    return 1 + int(sides[0] // config.patch_size) * int(sides[1] // config.patch_size)


def _backbone(
    name: str,
    visual: Any,
    pretrained: Mapping[str, Any],
    interpolation: str,
    size: Size | None,
) -> NetworkBackbone:
    own = visual.image_size
    height, width = size or ((own, own) if isinstance(own, int) else own)
    if isinstance(visual, TimmModel):
        resize(visual.trunk, (height, width), name=name)
    elif isinstance(visual, ModifiedResNet):
        require_multiple(name, (height, width), RESNET_STRIDE)
    mean = pretrained.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = pretrained.get("std", open_clip.OPENAI_DATASET_STD)
    preprocessing = Preprocessing(height, width, interpolation, tuple(mean), tuple(std))
    return open_clip_tower(visual).backbone(name, preprocessing)


def _openai_configuration(
    tensors: Mapping[str, Tensor], *, source: str
) -> tuple[int, dict[str, Any]]:
    """Infer the embedding's width and open_clip's vision configuration, heads 64 wide.

    Raises `WeightsError` when the tensors are not in OpenAI's layout.
    """
    try:
        if "visual.proj" in tensors:
            width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
            grid = isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
            return tensors["visual.proj"].shape[1], {
                "layers": _count(tensors, "visual.transformer.resblocks."),
                "width": width,
                "patch_size": patch_size,
                "image_size": patch_size * grid,
            }
        embed_dim = tensors["visual.attnpool.c_proj.weight"].shape[0]
        grid = isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
        return embed_dim, {
            "layers": [_count(tensors, f"visual.layer{stage}.") for stage in range(1, 5)],
            "width": tensors["visual.layer1.0.conv1.weight"].shape[0],
            "image_size": 32 * grid,
        }
    except KeyError as error:
        raise WeightsError(
            f"{source} is not in OpenAI's CLIP layout (no tensor {error.args[0]}); "
            "name its architecture with `arch`"
        ) from error


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of blocks under `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})
