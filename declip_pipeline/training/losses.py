"""Losses of maps of logits against soft masks, each a mean over images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FOCUS = 2.0
"""Exponent of the focal loss (gamma), as in its paper."""

DICE_SMOOTHING = 1.0
"""Pixels added to both sides of Dice, so that an empty map of an empty mask costs nothing."""


def map_loss(
    logits: Tensor, targets: Tensor, names: Sequence[str], positive_weight: float = 1.0
) -> Tensor:
    """Return the sum of several losses.

    Args:
        logits: (N, H, W) float32.
        targets: (N, H, W) float32 in [0, 1], 1 = fake.
        names: Names of the losses, see `LossName`.
        positive_weight: Weight of fake pixels in "bce" and "focal".
    """
    found = []
    for name in names:
        if name == "bce":
            weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
            found.append(F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight))
        elif name == "focal":
            found.append(focal_loss(logits, targets, positive_weight))
        elif name == "dice":
            found.append(dice_loss(logits, targets))
        else:
            found.append(lovasz_loss(logits, targets))
    return torch.stack(found).sum()


def focal_loss(logits: Tensor, targets: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Return the focal loss with gamma 2, a mean over pixels.

    Source: Lin et al. (ICCV 2017), equation 4.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = torch.sigmoid(logits)
    missed = probability + targets - 2 * probability * targets
    weights = 1 + (positive_weight - 1) * targets
    return (weights * missed**FOCUS * entropy).mean()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - Dice of the probabilities, a mean over images.

    Source: Milletari et al. (3DV 2016), with plain sums in the denominator.
    """
    maps = torch.sigmoid(logits).flatten(1)
    truth = targets.flatten(1)
    both = (maps * truth).sum(1)
    either = maps.sum(1) + truth.sum(1)
    return (1 - (2 * both + DICE_SMOOTHING) / (either + DICE_SMOOTHING)).mean()


def lovasz_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Lovász hinge, the convex surrogate of 1 - IoU of each image, a mean over images.

    It is defined for binary masks: a pixel is fake where its target is above 0.5.

    Source: Berman et al. (CVPR 2018), algorithm 1 and equation 11.
    """
    truth = (targets.flatten(1) > 0.5).float()
    errors = 1 - logits.flatten(1) * (2 * truth - 1)
    errors, order = errors.sort(dim=1, descending=True)
    fakes = truth.gather(1, order)
    total = fakes.sum(1, keepdim=True)
    found = fakes.cumsum(1)
    # Jaccard distance when the pixels up to each one, the worst first, are wrong.
    wrong_reals = (1 - fakes).cumsum(1)
    distance = 1 - (total - found) / (total + wrong_reals)
    gradient = torch.cat([distance[:, :1], distance.diff(dim=1)], dim=1)
    return (F.relu(errors) * gradient).sum(1).mean()
