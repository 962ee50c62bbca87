"""Intersection over union of thresholded maps with their masks."""

import torch
from torch import Tensor

from declip_pipeline.metrics.map_checks import check_same_shape

EPSILON = 1e-8


def intersection_over_union(maps: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """IoU of each image, in percent: (intersection + 1e-8) / (union + 1e-8) * 100.

    maps: (N, H, W), floating point; a pixel is called fake when its value is greater than
    `threshold`, which is 0.5 for probabilities and 0.0 for logits.
    masks: (N, H, W), bool (True = fake), or soft with values in [0, 1], fake where greater
    than 0.5 (a mask that was resized with interpolation).
    Returns: (N,) float64 on the device of `maps`. An empty mask met by an empty map gives 100.
    Raises: InputError when shapes, devices or dtypes do not fit.
    Source: DeCLIP, section 4 (IoU at threshold 0.5); the epsilon is the reference code's.
    """
    check_same_shape(maps, masks)
    truth = masks if masks.dtype == torch.bool else masks > 0.5
    called = maps > threshold
    both = (called & truth).sum(dim=(1, 2))
    return iou_from_counts(both, called.sum(dim=(1, 2)), truth.sum(dim=(1, 2)))


def iou_from_counts(found: Tensor, called: Tensor, fake: Tensor) -> Tensor:
    """IoU in percent (float64) from the counts of fake pixels called so, of called and of fake."""
    either = called + fake - found
    return (found.double() + EPSILON) / (either.double() + EPSILON) * 100
