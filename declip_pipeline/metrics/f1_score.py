"""F1 of a map against its mask, the band along the mask's outline left out.

F1 = (2 TP + 1e-32) / (2 TP + FP + FN + 1e-32), counted over the certain pixels
(`certain_regions`). A pixel is called fake when its value is greater than the threshold.
Source: TruFor (Guillaro et al., CVPR 2023), whose F1 DeCLIP reports.
"""

import torch
from torch import Tensor

from declip_pipeline.metrics.ranking import Ranking

EPSILON = 1e-32


def f1_from_counts(found: Tensor, called: Tensor, fake: Tensor) -> Tensor:
    """F1 (float64) from the counts of true positives, of called pixels and of fake pixels."""
    return (2 * found.double() + EPSILON) / (called.double() + fake.double() + EPSILON)


def f1_at_threshold(
    maps: Tensor, certain_fake: Tensor, certain_real: Tensor, threshold: float = 0.5
) -> Tensor:
    """F1 of each image at one threshold, 0 to 1.

    maps: (N, H, W) floating point. certain_fake, certain_real: (N, H, W) bool, disjoint.
    Returns: (N,) float64. When nothing is fake and nothing is called so, F1 is 1.
    """
    called = maps > threshold
    found = (called & certain_fake).sum(dim=(1, 2))
    false_alarms = (called & certain_real).sum(dim=(1, 2))
    return f1_from_counts(found, found + false_alarms, certain_fake.sum(dim=(1, 2)))


def f1_best(ranking: Ranking, f1_fixed: Tensor) -> Tensor:
    """F1 of each image at the threshold that suits it best, 0 to 1.

    Every threshold that calls some but not all of the certain pixels fake is tried. A map that is
    constant over the certain pixels has no such threshold (the reference divides nothing by
    nothing and gives NaN): it gets `f1_fixed`, its F1 at the fixed threshold. No choice of
    threshold can make such a map point anywhere, so none is made in its favour: F1 of "all is
    fake" would pay a dead decoder for the size of the mask.

    f1_fixed: (N,) float64, from `f1_at_threshold`. Returns: (N,) float64.
    """
    all_certain = ranking.certain[:, -1:]
    splits = ranking.ends & (ranking.certain > 0) & (ranking.certain < all_certain)
    f1 = f1_from_counts(ranking.certain_fake, ranking.certain, ranking.certain_fake[:, -1:])
    best = f1.masked_fill(~splits, -1.0).amax(dim=1)
    return torch.where(best < 0, f1_fixed, best)
