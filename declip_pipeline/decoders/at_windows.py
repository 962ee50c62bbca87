"""Features of a whole image at a window: what surrounds a tile, for a decoder of tiles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.features import FeatureShape


def features_at_windows(features: Tensor, shape: FeatureShape, places: Tensor) -> Tensor:
    """Sample whole images' features at windows, in as many positions as the whole image has.

    Bilinear, `align_corners` false, edges continued. Prefix tokens, which stand for the whole
    image, are kept.

    Args:
        features: (N, *shape.array_shape) of whole images, floating point.
        shape: Shape of one image's features.
        places: (N, 4) float32: top, left, height and width of each window, as shares of its
            image's height and width; see `window_shares`.

    Returns:
        (N, *shape.array_shape).
    """
    prefix = shape.prefix_tokens
    grid = features
    if prefix is not None:
        patches = features[:, prefix:].transpose(1, 2)
        grid = patches.reshape(len(patches), shape.channels, shape.height, shape.width)
    rows = _centres(places[:, 0], places[:, 2], shape.height)
    columns = _centres(places[:, 1], places[:, 3], shape.width)
    where = torch.stack(
        [
            columns[:, None, :].expand(-1, shape.height, -1),
            rows[:, :, None].expand(-1, -1, shape.width),
        ],
        dim=-1,
    )
    sampled = F.grid_sample(
        grid, where.to(grid.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    if prefix is None:
        return sampled
    return torch.cat([features[:, :prefix], sampled.flatten(2).transpose(1, 2)], dim=1)


def _centres(start: Tensor, length: Tensor, count: int) -> Tensor:
    """Return the centres of `count` positions of each window, (N, count), in [-1, 1]."""
    steps = (torch.arange(count, device=start.device, dtype=torch.float32) + 0.5) / count
    return 2 * (start[:, None] + length[:, None] * steps) - 1
