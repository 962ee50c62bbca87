"""Patch Forensics learns by the patch: each is real or fake, and all count the same."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.initialization import initialize
from declip_pipeline.decoders.patch_forensics import PatchForensicsDecoder
from declip_pipeline.features import FeatureShape
from declip_pipeline.training.imagenet_weights import imagenet_tensors
from declip_pipeline.training.learner import GradientLearner
from declip_pipeline.training.patch_labels import patch_labels
from declip_pipeline.training.recipe import Recipe


class PatchForensicsLearner(GradientLearner):
    """A `PatchForensicsDecoder` under cross-entropy over its patches.

    A patch is fake where more than half of its area is, as for probes. The optimizer is Adam:
    AdamW without weight decay is. "imagenet" begins with ImageNet weights, but for the decision.
    Source: Chai et al. (ECCV 2020); with masks, Tantaru et al. (WACV 2024), who label a patch by
    the mask's pixel at its centre.
    """

    def loss(self, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Binary cross-entropy with logits, mean over all patches of the batch.

        In detection, over its pictures.
        """
        if self.decoder.pooling is not None:
            return super().loss(inputs, targets)
        return patch_cross_entropy(self.decoder, inputs, targets)

    def initialize(self, decoder: Decoder, recipe: Recipe) -> None:
        """Give a new decoder its initial weights. Raises `WeightsError`."""
        if recipe.initialization != "imagenet":
            super().initialize(decoder, recipe)
            return
        assert isinstance(decoder, PatchForensicsDecoder)
        initialize(decoder, "pytorch", recipe.seed)
        tensors = imagenet_tensors(decoder.trunk, recipe.initial_weights)
        decoder.trunk.load_state_dict(tensors, strict=False)


def patch_cross_entropy(decoder: Decoder, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Binary cross-entropy of a `PatchForensicsDecoder`, mean over patches; targets (N, 256, 256).

    Of two logits, one for real and one for fake, the cross-entropy is that of their difference.
    """
    assert isinstance(decoder, PatchForensicsDecoder)
    logits = decoder.position_logits(decoder.joined(*inputs)).float()
    labels = patch_labels(targets, FeatureShape(1, *logits.shape[1:]))
    return F.binary_cross_entropy_with_logits(logits.flatten(), labels.float())
