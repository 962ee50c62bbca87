"""How well a score tells manipulated pictures from authentic ones."""

import torch
from torch import Tensor

from declip_pipeline.errors import InputError
from declip_pipeline.metrics.average_precision import average_precision


def detection_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Average precision and accuracy of image scores.

    scores: (N,) floating point, higher = more likely fake; a picture is called fake when its
    score is at least the threshold. labels: (N,), bool or 0 and 1, 1 = fake. N >= 1.
    Returns: `average_precision`, 0 to 1 (0 without a fake picture); `accuracy_at_0_5`, percent;
    `best_threshold`, in the unit of the scores, and `accuracy_at_best`, percent, there. Tried are
    all scores, and the next number above the highest (calling nothing fake) where that alone does
    better; of equally good thresholds the highest is given. `threshold_between` is for other
    pictures: halfway from there to the next lower score, since the score of the lowest fake that
    was called right is at the edge of what is right here (the same where no score is lower).
    Raises: InputError when shapes, devices, dtypes or values do not fit.
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


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """The chance that a fake picture's score is above a real one's, equal ones counted half.

    scores, labels: as above. Returns: 0 to 1; NaN without a picture of either label.
    Raises: InputError when shapes, devices, dtypes or values do not fit.
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
    """Percent of the pictures that are told right; fake is called what is at least `threshold`.

    scores, labels: as above. Raises: InputError when shapes, devices, dtypes or values do not fit.
    """
    _check(scores, labels)
    return float(((scores.detach().double() >= threshold) == (labels == 1)).double().mean() * 100)


def _halfway_down(scores: Tensor, threshold: float) -> float:
    """Between a threshold and the next lower score, itself above that one."""
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
            "expected one score and one label for each of at least one picture"
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
