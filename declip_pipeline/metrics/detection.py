"""Average precision, accuracy and ROC area of image scores."""

import torch
from torch import Tensor

from declip_pipeline.errors import InputError


def detection_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Return average precision and accuracy of image scores.

    Args:
        scores: (N,) floating point, N >= 1, higher = more likely fake. An image is called fake
            when its score is at least the threshold.
        labels: (N,) bool or 0 and 1, 1 = fake.

    Returns:
        `average_precision`, 0 to 1 (0 without a fake image); `accuracy_at_0_5`, percent;
        `best_threshold`, in the unit of the scores, and `accuracy_at_best`, percent, there;
        `threshold_between`, halfway from the best threshold to the next lower score (the best
        threshold where no score is lower). Candidates for the best threshold are all scores, and
        the next number above the highest (nothing is called fake) if that alone is better; of
        equally good ones the highest is returned. Use `threshold_between` on other images: the
        best threshold is the score of a fake image and so at the edge of what is right here.

    Raises:
        InputError: Shapes, devices, dtypes or values do not fit.

    Source: DeCLIP, section 4 (image-level detection).
    """
    _check(scores, labels)
    scores, order = torch.sort(scores.detach().double(), descending=True)
    fake = (labels == 1)[order]
    ends = torch.ones_like(fake)
    ends[:-1] = scores[1:] < scores[:-1]

    found = fake.cumsum(0)
    real_called = (~fake).cumsum(0)
    n_real = real_called[-1]
    correct = torch.where(ends, found + n_real - real_called, -1)
    correct = torch.cat([correct, n_real[None]])  # the last one calls nothing fake
    above_all = torch.nextafter(scores[:1], scores.new_tensor([torch.inf]))
    thresholds = torch.cat([scores, above_all])
    best = correct.argmax()
    return {
        "average_precision": float(average_precision(found[None], ends[None])),
        "accuracy_at_0_5": float(((scores >= 0.5) == fake).double().mean() * 100),
        "best_threshold": float(thresholds[best]),
        "threshold_between": _halfway_down(scores, float(thresholds[best])),
        "accuracy_at_best": float(correct[best].double() / len(scores) * 100),
    }


def balanced_threshold(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the threshold with the best balanced accuracy, and that in percent.

    Balanced accuracy is the mean of the shares of fakes and of real images that are called right,
    so that it does not depend on how many there are of each. The threshold is halfway from the best
    score to the next lower one, as `threshold_between` of `detection_metrics`; of equally good ones
    it is the highest.

    `scores` and `labels` as for `detection_metrics`, as are the errors; both labels must occur.

    Source: Youden, Cancer 3 (1950), whose index is twice the balanced accuracy less one.
    """
    _check(scores, labels)
    scores, order = torch.sort(scores.detach().double(), descending=True)
    fake = (labels == 1)[order]
    if bool(fake.all()) or not bool(fake.any()):
        raise InputError("labels are all the same; expected fake and real images")
    ends = torch.ones_like(fake)
    ends[:-1] = scores[1:] < scores[:-1]
    found, real_called = fake.cumsum(0), (~fake).cumsum(0)
    balanced = (found / found[-1] + 1 - real_called / real_called[-1]) / 2
    # Half is right where nothing is called fake.
    above_all = torch.nextafter(scores[:1], scores.new_tensor([torch.inf]))
    thresholds = torch.cat([above_all, scores])
    balanced = torch.cat([balanced.new_tensor([0.5]), torch.where(ends, balanced, 0.0)])
    best = balanced.argmax()
    return _halfway_down(scores, float(thresholds[best])), float(balanced[best]) * 100


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """Return the probability that a fake image's score is above a real one's; ties count half.

    `scores` and `labels` as for `detection_metrics`, as are the errors. The result is 0 to 1, or
    NaN where either label is missing.
    """
    _check(scores, labels)
    scores = scores.detach().double()
    fake = scores[labels == 1]
    real = scores[labels == 0].sort().values
    if not len(fake) or not len(real):
        return float("nan")
    below, not_above = (torch.searchsorted(real, fake, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(real)))


def accuracy_at(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """Return the accuracy in percent; a score of at least `threshold` is called fake.

    `scores` and `labels` as for `detection_metrics`, as are the errors.
    """
    _check(scores, labels)
    return float(((scores.detach().double() >= threshold) == (labels == 1)).double().mean() * 100)


def f1_at(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """Return F1 of the fakes, 0 to 1; a score of at least `threshold` is called fake.

    2 TP / (2 TP + FP + FN); 0 where no image is fake and none is called so. `scores` and `labels`
    as for `detection_metrics`, as are the errors.
    """
    _check(scores, labels)
    called, fake = scores.detach().double() >= threshold, labels == 1
    both = int(called.sum()) + int(fake.sum())
    return 2 * int((called & fake).sum()) / both if both else 0.0


def average_precision(positives: Tensor, ends: Tensor) -> Tensor:
    """Return the average precision of each row: sum of (recall step) * precision.

    Without interpolation, and items of equal score count together, as in scikit-learn's
    `average_precision_score`.

    Args:
        positives: (N, M) integer, the number of positives among the first 1..M items, highest
            score first.
        ends: (N, M) bool, whether the next item has a lower score.

    Returns:
        (N,) float64, 0 to 1; 0 for a row without a positive.
    """
    # The count of positives at the previous end: the running maximum, shifted by one.
    counted = torch.where(ends, positives, 0).cummax(dim=1).values
    before = torch.zeros_like(counted)
    before[:, 1:] = counted[:, :-1]

    length = torch.arange(1, positives.shape[1] + 1, device=positives.device)
    gain = ((positives - before) * ends).double() * positives.double() / length
    return gain.sum(dim=1) / positives[:, -1].clamp(min=1)


def _halfway_down(scores: Tensor, threshold: float) -> float:
    """Return the middle between a threshold and the next lower score; always above the latter."""
    lower = scores[scores < threshold]
    if not len(lower) or threshold > float(scores.max()):
        return threshold
    next_lower = float(lower.max())
    halfway = next_lower + (threshold - next_lower) / 2
    return halfway if halfway > next_lower else threshold


def _check(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise InputError(
            f"scores have shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; "
            "expected one score and one label for each of at least one image"
        )
    if scores.device != labels.device:
        raise InputError(
            f"scores are on {scores.device} and labels on {labels.device}; move them to one device"
        )
    if not scores.is_floating_point() or not bool(scores.isfinite().all()):
        raise InputError(f"scores ({scores.dtype}) must be finite floating point numbers")
    if not bool(((labels == 0) | (labels == 1)).all()):
        found = sorted(set(labels.tolist()))[:5]
        raise InputError(f"labels have the values {found}; expected 0 (real) and 1 (fake)")
