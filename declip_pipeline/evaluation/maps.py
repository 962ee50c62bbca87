"""From a decoder's logits to a map of probabilities at a picture's own size."""

import torch
import torch.nn.functional as F


def probability_maps(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Sigmoid, then bilinear resize: logits (N, h, w) to (N, height, width) float32 in [0, 1].

    Source: the reference's test protocol, in this order (DeCLIP, arXiv 2409.08849).
    """
    maps = torch.sigmoid(logits.float())
    if maps.shape[1:] == (height, width):
        return maps
    resized = F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)
    # Interpolation may leave [0, 1] by a rounding error.
    return resized[:, 0].clamp_(0, 1)
