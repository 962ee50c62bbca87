"""Backbones from timm, by timm's own names."""

from pathlib import Path
from typing import Any

import timm

from declip_pipeline.backbones.architecture_names import unknown_architecture
from declip_pipeline.backbones.contract import INTERPOLATIONS, Preprocessing
from declip_pipeline.backbones.hub import from_hub
from declip_pipeline.backbones.network_backbone import NetworkBackbone
from declip_pipeline.backbones.random_weights import initialised_from, name_with_seed, random_seed
from declip_pipeline.backbones.strict_weights import load_strictly
from declip_pipeline.backbones.timm_tower import timm_tower
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.errors import UnknownNameError


def open_timm(model_name: str, weights: str | None) -> NetworkBackbone:
    """A timm network, "NAME" or "NAME.TAG", without its classifier, preprocessed as timm says.

    Raises `UnknownNameError` for a name or tag, `WeightsError` for weights.
    """
    arch, _, tag = model_name.partition(".")
    if not timm.is_model(arch):
        raise unknown_architecture(f"timm:{model_name}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in tags:
        raise UnknownNameError(f"tag of timm's {arch}", tag, tags)
    seed = random_seed(weights)
    if weights is None:
        network = from_hub(f"timm:{model_name}", lambda: _build(model_name, pretrained=True))
        tag = tag or network.pretrained_cfg.get("tag", "")
    else:
        path = Path(weights)
        tensors = read_tensors(path) if seed is None else {}
        with initialised_from(seed):
            network = _build(model_name, pretrained=False)
        if seed is None:
            heads = _classifier_prefixes(network)
            images_only = {
                name: tensor for name, tensor in tensors.items() if not name.startswith(heads)
            }
            load_strictly(network, images_only, arch=f"timm:{model_name}", source=f"weights {path}")
    name = f"timm:{arch}" + (f".{tag}" if tag else "")
    return NetworkBackbone(name_with_seed(name, seed), timm_tower(network), preprocessing(network))


def preprocessing(network: Any) -> Preprocessing:
    """Input size, interpolation, mean and std of a timm network's own configuration."""
    config = network.pretrained_cfg
    _, height, width = config["input_size"]
    asked = config["interpolation"]
    interpolation = asked if asked in INTERPOLATIONS else "bicubic"
    return Preprocessing(height, width, interpolation, tuple(config["mean"]), tuple(config["std"]))


def _build(model_name: str, *, pretrained: bool) -> Any:
    return timm.create_model(model_name, pretrained=pretrained, num_classes=0)


def _classifier_prefixes(network: Any) -> tuple[str, ...]:
    """The name prefixes of the classifier's weights, which files hold and backbones do without."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
