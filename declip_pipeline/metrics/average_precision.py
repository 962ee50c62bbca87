"""Average precision from counts down a ranking."""

import torch
from torch import Tensor


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
