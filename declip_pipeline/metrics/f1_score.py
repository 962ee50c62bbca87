"""F1 of a map against its mask, the band along the mask's outline left out.

F1 = (2 TP + 1e-32) / (2 TP + FP + FN + 1e-32), counted over the certain pixels
(`certain_regions`). A pixel is called fake when its value is greater than the threshold.
Source: TruFor (Guillaro et al., CVPR 2023), whose F1 DeCLIP reports.
"""

import torch
from torch import Tensor

from declip_pipeline.metrics.ranking import Counts, Ranking

EPSILON = 1e-32


def f1_from_counts(counts: Counts, certain_fake: Tensor) -> Tensor:
    """F1 at each threshold, float64, 0 to 1.

    certain_fake: (thresholds,) integer, how many pixels of its image are certainly fake.
    """
    called_and_fake = counts.certain.double() + certain_fake
    return (2 * counts.certain_found.double() + EPSILON) / (called_and_fake + EPSILON)


def f1_fixed(ranking: Ranking) -> Tensor:
    """F1 of each image at the ranking's fixed threshold, 0 to 1.

    Returns: (images,) float64. When nothing is fake and nothing is called so, F1 is 1.
    """
    return f1_from_counts(ranking.at_fixed, ranking.in_all.certain_found)


def f1_best(ranking: Ranking) -> Tensor:
    """F1 of each image at the threshold that suits it best, 0 to 1.

    Best of all thresholds that call some but not all of the certain pixels fake. A map that is
    constant over the certain pixels has no such threshold (the reference divides nothing by
    nothing and gives NaN): it gets its F1 at the fixed threshold. No choice of
    threshold can make such a map point anywhere, so none is made in its favour: F1 of "all is
    fake" would pay a dead decoder for the size of the mask.

    Returns: (images,) float64.
    """
    counts, whole = ranking.at_fakes, ranking.in_all
    f1 = f1_from_counts(counts, whole.certain_found.index_select(0, ranking.image))
    inside = (counts.certain > 0) & (counts.certain < whole.certain.index_select(0, ranking.image))
    fixed = f1_fixed(ranking)
    best = torch.zeros_like(fixed).scatter_reduce(0, ranking.image.long(), f1 * inside, "amax")
    return torch.where(ranking.varied, best, fixed)
