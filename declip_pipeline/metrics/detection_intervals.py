"""Bootstrap intervals of AP and AUC of image scores."""

import numpy as np
from torch import Tensor

from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval, percentile_interval
from declip_pipeline.metrics.resampling import RESAMPLES_OF_A_STATISTIC, resampled_counts


def detection_intervals(
    scores: Tensor, labels: Tensor, scenes: np.ndarray | None = None
) -> dict[str, Interval]:
    """Return the 95% intervals, over scenes, of average precision (`ap`) and ROC area (`auc`).

    scores, labels: as in `detection_metrics`, with images of both labels. scenes: (N,), what each
    shows, all its own where None. A scene is drawn with all its images, and scenes that have
    fakes, real images or both are resampled apart, so that no resample lacks one of them.

    Of few images that are ranked worse than by chance, AP may lie below its interval: an image that
    is drawn several times ties with itself, AP counts all of a tie as found at once, and so the AP
    of resamples leans upwards. AUC counts half of a tie and does not.

    Source: the percentile bootstrap of `metrics.bootstrap.mean_interval`.
    """
    fake = labels.cpu().numpy() == 1
    curve = RankedImages(scores.detach().double().cpu().numpy(), fake)
    names = np.arange(len(fake)) if scenes is None else scenes
    found = [
        curve.ap_and_auc(counts)
        for counts in resampled_counts(names, strata=fake, resamples=RESAMPLES_OF_A_STATISTIC)
    ]
    if not found:
        return {"ap": NO_INTERVAL, "auc": NO_INTERVAL}
    ap, auc = np.concatenate(found, axis=1)
    return {"ap": percentile_interval(ap), "auc": percentile_interval(auc)}


class RankedImages:
    """Images sorted once by their scores, so that a resample of them is only counted.

    scores: (N,) float64, higher = more likely fake; fake: (N,) bool.
    """

    def __init__(self, scores: np.ndarray, fake: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._fake = fake[self._order]
        # The first image of each score: equal ones are called fake together.
        self._starts = np.flatnonzero(np.append(True, ordered[1:] < ordered[:-1]))

    def ap_and_auc(self, counts: np.ndarray) -> np.ndarray:
        """Return average precision and area under ROC, (2, resamples) float64, 0 to 1.

        counts: (resamples, N), how often each image is there. NaN without one of either label.
        """
        drawn = counts[:, self._order]
        fake = drawn * self._fake
        real = drawn - fake
        if len(self._starts) < drawn.shape[1]:
            fake, real = (np.add.reduceat(some, self._starts, axis=1) for some in (fake, real))
        fake_called, real_called = fake.cumsum(axis=1), real.cumsum(axis=1)
        precision = fake_called / np.maximum(fake_called + real_called, 1)
        real_above = real_called - real / 2
        fakes, reals = fake_called[:, -1], real_called[:, -1]
        ap = _share(np.einsum("nk,nk->n", fake, precision), fakes)
        auc = 1 - _share(np.einsum("nk,nk->n", fake, real_above), fakes * reals)
        return np.stack([np.where(reals > 0, ap, np.nan), auc])


def _share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(part, of, out=np.full(len(part), np.nan), where=of > 0)
    return shares
