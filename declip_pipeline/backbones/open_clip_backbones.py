"""Backbones from open_clip: OpenAI's CLIP under the paper's names, and any architecture and tag."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from declip_pipeline.backbones.architecture_names import FROM_FILE
from declip_pipeline.backbones.contract import Preprocessing
from declip_pipeline.backbones.hub import from_hub
from declip_pipeline.backbones.network_backbone import NetworkBackbone
from declip_pipeline.backbones.open_clip_towers import build_visual, open_clip_tower
from declip_pipeline.backbones.openai_layout import vision_of_openai_file
from declip_pipeline.backbones.random_weights import initialised_from, name_with_seed, random_seed
from declip_pipeline.backbones.strict_weights import load_strictly
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.errors import UnknownNameError, WeightsError


def architectures() -> list[str]:
    """The names of open_clip's architectures."""
    return list(open_clip.list_models())


def open_openai(paper_name: str, weights: str | None) -> NetworkBackbone:
    """One of OpenAI's CLIPs by the paper's name, e.g. "ViT-L/14"; bilinear, as in the paper.

    Raises `WeightsError` when the weights cannot be had or do not fit.
    """
    arch = paper_name.replace("/", "-").replace("@336px", "-336") + "-quickgelu"
    return _open(f"CLIP:{paper_name}", arch, "openai", weights, interpolation="bilinear")


def open_any(arch: str, tag: str | None, weights: str | None) -> NetworkBackbone:
    """Any open_clip architecture, with the mean, std and interpolation of its tag.

    A tag trained with QuickGELU gets it whether or not the name says so. Without a tag, weights
    must be given. Raises `UnknownNameError` for a tag, `WeightsError` for weights.
    """
    tags = open_clip.list_pretrained_tags_by_model(arch)
    # As open_clip reads tags itself; the canonical name has one spelling.
    tag = tag and tag.lower().replace("-", "_")
    if tag is not None and not open_clip.is_pretrained_cfg(arch, tag):
        raise UnknownNameError(f"tag of open_clip's {arch}", tag, tags)
    if tag is None and weights is None:
        known = f"a tag ({', '.join(f'{arch}/{tag}' for tag in tags)}) or " if tags else ""
        raise WeightsError(f"{arch} alone does not say which weights; give {known}--weights FILE")
    if (
        tag is not None
        and open_clip.get_pretrained_cfg(arch, tag).get("quick_gelu")
        and f"{arch}-quickgelu" in open_clip.list_models()
    ):
        arch += "-quickgelu"
    name = f"open_clip:{arch}" + (f"/{tag}" if tag else "")
    return _open(name, arch, tag, weights, interpolation=None)


def open_from_file(weights: str | None) -> NetworkBackbone:
    """A CLIP in OpenAI's layout whose architecture is read off the weights file.

    Raises `WeightsError` without a file, or when it is not in that layout.
    """
    if weights is None or random_seed(weights) is not None:
        raise WeightsError(f"{FROM_FILE} reads the architecture off a file; give --weights FILE")
    tensors = read_tensors(Path(weights))
    embed_dim, vision = vision_of_openai_file(tensors, source=f"weights {weights}")
    with initialised_from(None):
        visual = build_visual(embed_dim, vision, quick_gelu=True)
    _load_visual(visual, tensors, arch=FROM_FILE, source=f"weights {weights}")
    return _backbone(FROM_FILE, visual, {}, "bilinear")


def _open(
    name: str, arch: str, tag: str | None, weights: str | None, *, interpolation: str | None
) -> NetworkBackbone:
    model = open_clip.get_model_config(arch)
    pretrained = open_clip.get_pretrained_cfg(arch, tag) if tag else {}
    quick_gelu = bool(model.get("quick_gelu") or pretrained.get("quick_gelu"))
    seed = random_seed(weights)
    tensors: dict[str, Tensor] = {}
    if seed is None:
        # Before the network is built, so that a wrong path or a missing hub is told at once.
        path = weights or from_hub(name, lambda: str(open_clip.download_pretrained(pretrained)))
        tensors = read_tensors(Path(path))
    with initialised_from(seed):
        visual = build_visual(model["embed_dim"], model["vision_cfg"], quick_gelu)
    if seed is None:
        _load_visual(visual, tensors, arch=name, source=f"weights {path}")
    return _backbone(
        name_with_seed(name, seed),
        visual,
        pretrained,
        interpolation or pretrained.get("interpolation", "bicubic"),
    )


def _load_visual(
    visual: nn.Module, tensors: Mapping[str, Tensor], *, arch: str, source: str
) -> None:
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
    load_strictly(visual, images_only, arch=arch, source=source)


def _backbone(
    name: str, visual: Any, pretrained: Mapping[str, Any], interpolation: str
) -> NetworkBackbone:
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    mean = pretrained.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = pretrained.get("std", open_clip.OPENAI_DATASET_STD)
    preprocessing = Preprocessing(height, width, interpolation, tuple(mean), tuple(std))
    return NetworkBackbone(name, open_clip_tower(visual), preprocessing)
