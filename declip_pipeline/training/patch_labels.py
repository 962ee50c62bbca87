"""Masks as labels of patches."""

import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.features import FeatureShape


def patch_labels(targets: Tensor, shape: FeatureShape) -> Tensor:
    """Targets (N, 256, 256) as labels of patches (N * height * width,), int64.

    1 where the mean over the patch's area is above 0.5. Where 256 is not a multiple of the patches,
    the areas of neighbours overlap by a pixel.
    """
    # As the whole numbers 0..255 that they were: their sums are exact, so that areas that are just
    # half fake, which outlines along patches make, are so on every device.
    levels = (targets * 255).round()[:, None]
    means = F.adaptive_avg_pool2d(levels, (shape.height, shape.width))
    return (means > 127.5).long().flatten()
