"""P-values of several tests, corrected so that their number makes no difference by itself."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's method, in the order in which they are given.

    Called significant below a level, they hold the chance of even one false difference among all
    tests below this level, however the tests depend on each other.

    Args:
        p_values: Two-sided p-values in [0, 1]. NaN, of a test that could not be made, stays NaN
            and does not count.

    Returns:
        Values in [0, 1]: the smallest times the number of tests, the next times one less, and so
        on, none below the one before it.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure (Scandinavian Journal
    of Statistics 6, 1979).
    """
    given = np.asarray(p_values, np.float64)
    corrected = np.full(len(given), np.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    found: list[float] = corrected.tolist()
    return found
