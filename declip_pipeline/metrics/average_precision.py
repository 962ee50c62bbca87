"""Average precision from counts down a ranking."""

import torch
from torch import Tensor

from declip_pipeline.metrics.ranking import Ranking


def average_precision(positives: Tensor, ends: Tensor) -> Tensor:
    """Average precision of each row: sum of (recall step) * precision, without interpolation.

    positives: (N, M) integer, how many of the first 1..M items, highest score first, are
    positive. ends: (N, M) bool, whether the next item has a lower score; items of equal score
    count together, as in scikit-learn's `average_precision_score`.
    Returns: (N,) float64, 0 to 1; 0 for a row without a positive.
    """
    # Positives counted at the end before: the running maximum, moved on by one.
    counted = torch.where(ends, positives, 0).cummax(dim=1).values
    before = torch.zeros_like(counted)
    before[:, 1:] = counted[:, :-1]

    length = torch.arange(1, positives.shape[1] + 1, device=positives.device)
    gain = ((positives - before) * ends).double() * positives.double() / length
    return gain.sum(dim=1) / positives[:, -1].clamp(min=1)


def average_precision_of_ranking(ranking: Ranking) -> Tensor:
    """Average precision of each image: the mean of the precision at each of its fake pixels.

    The same figure as `average_precision`, from counts at the fake pixels alone.
    Returns: (images,) float64, 0 to 1; 0 for an image without a fake pixel.
    """
    precision = ranking.at_fakes.found.double() / ranking.at_fakes.called
    fake = ranking.in_all.found
    total = torch.zeros_like(fake, dtype=torch.float64)
    return total.index_add(0, ranking.image, precision * ranking.tied) / fake.clamp(min=1)
