"""Patches: the positions of a decoder's features, their labels, and what share of each is fake."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.features import FeatureShape


def patch_features(decoder: Decoder, inputs: Sequence[Tensor]) -> Tensor:
    """Return features of patches (N * height * width, channels) from a decoder's inputs.

    Layers are normalized and joined, and prefix tokens left out; ordered by image, then row by row.
    """
    tokens = decoder.without_prefix(decoder.tokens(decoder.joined(*inputs)))
    return tokens.reshape(-1, decoder.shape.channels)


def patch_shares(targets: Tensor, shape: FeatureShape) -> Tensor:
    """Return the share of each patch that is fake, (N, height * width), of targets (N, 256, 256).

    Where 256 is not a multiple of the grid, the areas of neighbouring patches overlap by a pixel.
    """
    return F.adaptive_avg_pool2d(targets[:, None], (shape.height, shape.width)).flatten(1)


def patch_labels(targets: Tensor, shape: FeatureShape) -> Tensor:
    """Return labels of patches (N * height * width,), int64: 1 where more than half is fake."""
    # Whole numbers 0..255 have exact sums, so that areas that are exactly half fake (where an
    # outline follows the patches) get the same label on every device.
    levels = patch_shares((targets * 255).round(), shape)
    return (levels > 127.5).long().flatten()
