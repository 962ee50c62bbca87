"""Learner of Patch Forensics, with a loss over patches and ImageNet weights to begin with."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.backbones.weights import differences, download, is_weight
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.decoders.building import initialize
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.patch_forensics import PatchForensicsDecoder
from declip_pipeline.errors import WeightsError
from declip_pipeline.features import FeatureShape
from declip_pipeline.training.learner import GradientLearner
from declip_pipeline.training.patches import patch_labels
from declip_pipeline.training.recipe import Recipe

ARCH = "timm's legacy_xception"


class PatchForensicsLearner(GradientLearner):
    """`PatchForensicsDecoder` trained with a cross-entropy over its patches.

    A patch is fake where more than half of its area is, as for probes. The optimizer is Adam
    (AdamW without weight decay). "imagenet" initializes all but the last layer with ImageNet
    weights.

    Source: Chai et al. (ECCV 2020); with masks, Tantaru et al. (WACV 2024), who label a patch by
    the mask's pixel at its centre.
    """

    def loss(self, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the binary cross-entropy, a mean over patches, or in detection over images."""
        if self.decoder.pooling is not None:
            return super().loss(inputs, targets)
        return patch_cross_entropy(self.decoder, inputs, targets)

    def initialize(self, decoder: Decoder, recipe: Recipe) -> None:
        """Draw or load the initial weights of a new decoder. Raises `WeightsError`."""
        if recipe.initialization != "imagenet":
            super().initialize(decoder, recipe)
            return
        assert isinstance(decoder, PatchForensicsDecoder)
        initialize(decoder, "pytorch", recipe.seed)
        tensors = imagenet_tensors(decoder.trunk, recipe.initial_weights)
        decoder.trunk.load_state_dict(tensors, strict=False)


def patch_cross_entropy(decoder: Decoder, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of a `PatchForensicsDecoder`, a mean over patches.

    `targets` are (N, 256, 256). The cross-entropy of two logits, for real and for fake, is that of
    their difference.
    """
    assert isinstance(decoder, PatchForensicsDecoder)
    logits = decoder.position_logits(decoder.joined(*inputs)).float()
    labels = patch_labels(targets, FeatureShape(1, *logits.shape[1:]))
    return F.binary_cross_entropy_with_logits(logits.flatten(), labels.float())


def imagenet_tensors(trunk: nn.Module, file: str | None) -> dict[str, Tensor]:
    """Return ImageNet weights of the first layers of timm's `legacy_xception`, by name, on the CPU.

    Args:
        trunk: These layers, with any values.
        file: File of the weights, which may also hold later layers; None downloads timm's once
            into torch's own cache.

    Raises:
        WeightsError: The weights cannot be downloaded or read, or do not fit.
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
