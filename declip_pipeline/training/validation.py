"""Scores that a training computes after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.compute import MapParts
from declip_pipeline.datasets.sample import REAL
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.detection import balanced_threshold, detection_metrics
from declip_pipeline.metrics.localization import count_pixels, iou_from_counts
from declip_pipeline.metrics.regions import region_counts


@dataclass(frozen=True)
class Candidate:
    """A decoder to validate.

    Args:
        decoder: The decoder.
        logits: Computes its logits, (N, 256, 256), from its inputs.
        sources: The features that the decoder takes.
        piece_size: Images of a batch that are computed at once; None computes all at once.
    """

    decoder: Decoder
    logits: Callable[[Sequence[Tensor]], Tensor]
    sources: Sequence[FeatureSource]
    piece_size: int | None = None


def validation_ious(
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts = map,
    real_share: float = 0.0,
) -> list[float]:
    """Return the mean IoU over images of each decoder, in percent, at its own 256x256.

    Masks are the training targets: a pixel is fake where more than half of it is. The IoU of an
    image that is fed in tiles is that of the pixels of all its tiles together. Of a real image it
    is 100 where no pixel is called fake, else 0.

    Args:
        candidates: The decoders.
        feed: Validation images.
        batch_size: Images a batch.
        map_pieces: Maps a function over the pieces of a batch, possibly in several threads.
        real_share: Weight of the real images' mean; that of the fakes is the rest. 0 takes the
            mean over all images.
    """
    found = _values(_counts, candidates, feed, batch_size, map_pieces)
    return [float(_mean_iou(counts, feed, real_share)) for counts in found]


@dataclass(frozen=True)
class BestMasks:
    """Threshold and minimum size of regions with the best mean IoU over images.

    Attributes:
        threshold: Threshold of probabilities, one of `THRESHOLDS`, of equally good ones the nearest
            to 0.5.
        threshold_iou: Mean IoU at it, in percent.
        min_region: Minimum size of regions at 0.5, one of `MIN_REGIONS`, of equally good ones the
            smallest; see `without_small_regions`. None where an image is fed in several tiles, over
            which a region may reach.
        min_region_iou: Mean IoU without smaller regions, in percent; None without such a size.
    """

    threshold: float
    threshold_iou: float
    min_region: float | None = None
    min_region_iou: float | None = None


def best_masks(
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    real_share: float = 0.0,
) -> list[BestMasks]:
    """Return what makes the best masks of each decoder's maps, in one pass of the images.

    Threshold and minimum size are chosen each by itself. Arguments and IoU as in
    `validation_ious`.
    """
    is_tiled = len(np.unique(feed.image_of)) < len(feed)
    found = []
    for counts in _values(_counts_of_masks, candidates, feed, batch_size, map):
        means = _mean_iou(counts, feed, real_share).tolist()
        at_thresholds = zip(means[: len(THRESHOLDS)], THRESHOLDS, strict=True)
        score, threshold = max(at_thresholds, key=lambda one: (one[0], -abs(one[1] - 0.5)))
        best = BestMasks(threshold, score)
        if not is_tiled:
            of_regions = zip(means[len(THRESHOLDS) :], MIN_REGIONS, strict=True)
            score, min_region = max(of_regions, key=lambda one: (one[0], -one[1]))
            best = replace(best, min_region=min_region, min_region_iou=score)
        found.append(best)
    return found


def validation_aps(
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts = map,
    real_share: float = 0.0,
) -> list[float]:
    """Return the average precision over images of each decoder's pooled logits, in percent.

    The feed's targets are labels and each decoder has a pooling. Arguments as in
    `validation_ious`; real images count as all others do.
    """
    found = _values(_logits_and_labels, candidates, feed, batch_size, map_pieces)
    return [
        100 * detection_metrics(logits, labels)["average_precision"]
        for logits, labels in (both.unbind(1) for both in found)
    ]


def real_shares(
    candidates: Sequence[Candidate], feed: BatchFeed, batch_size: int
) -> list[np.ndarray]:
    """Return the share of pixels that each decoder calls fake in each real image of the feed.

    Arguments as in `validation_ious`. Of an image that is fed in tiles it is the share over all its
    tiles.

    Returns:
        For each decoder (images, thresholds) float32 in [0, 1], at each of `THRESHOLDS`.
    """
    real = np.flatnonzero(feed.labels == REAL)
    _, image_of = np.unique(feed.image_of[real], return_inverse=True)
    rows = torch.from_numpy(image_of)
    tiles = torch.bincount(rows)[:, None]
    found = []
    for shares in _values(_shares_at_thresholds, candidates, feed, batch_size, map, real):
        sums = torch.zeros((len(tiles), len(THRESHOLDS)), dtype=torch.float64)
        found.append((sums.index_add_(0, rows, shares.cpu()) / tiles).float().numpy())
    return found


def score_thresholds(
    candidates: Sequence[Candidate], feed: BatchFeed, batch_size: int
) -> list[tuple[float, float]]:
    """Return each decoder's threshold of image scores with the best balanced accuracy, and that.

    An image is forged where its score is at least the threshold. The score is the mean of the map's
    probabilities; of a decoder with a pooling, the sigmoid of its pooled logit. Of an image that is
    fed in tiles it is the mean over these. See `balanced_threshold`.

    Args:
        candidates: The decoders.
        feed: Validation images, fake and real ones.
        batch_size: Images a batch.

    Returns:
        For each decoder the threshold, and the balanced accuracy in percent.
    """
    images, first, image_of = np.unique(feed.image_of, return_index=True, return_inverse=True)
    labels = torch.from_numpy(feed.labels[first].astype(np.int64))
    rows = torch.from_numpy(image_of)
    tiles = torch.bincount(rows)
    found = []
    for scores in _values(_image_scores, candidates, feed, batch_size, map):
        sums = torch.zeros(len(images), dtype=torch.float64).index_add_(0, rows, scores.cpu())
        found.append(balanced_threshold(sums / tiles, labels))
    return found


VALIDATIONS = {"iou": validation_ious, "ap": validation_aps}
"""Validation functions by the name of their score."""

THRESHOLDS = tuple(number / 100 for number in range(1, 100))
"""Thresholds that `best_masks` chooses from."""

MIN_REGIONS = (
    *(0.0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03),
    *(0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.1),
)
"""Shares of an image's pixels that `best_masks` chooses from."""

# Values (N, ...) of a decoder on a piece of a batch, on the device.
_Compute = Callable[[Candidate, Batch], Tensor]


def _values(
    compute: _Compute,
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts,
    positions: np.ndarray | None = None,
) -> list[Tensor]:
    """Return each decoder's values of the images at these positions of the feed, or of all."""
    for one in candidates:
        one.decoder.eval()

    scores: list[list[Tensor]] = [[] for _ in candidates]
    order = np.arange(len(feed)) if positions is None else positions
    for batch in feed.batches(order, batch_size):
        for size in dict.fromkeys(one.piece_size for one in candidates):
            numbers = [n for n, one in enumerate(candidates) if one.piece_size == size]
            compute_all = partial(_compute_all, compute, [candidates[n] for n in numbers])
            for each in map_pieces(compute_all, batch.pieces(size or len(batch))):
                for number, found in zip(numbers, each, strict=True):
                    scores[number].append(found)
    return [torch.cat(found) for found in scores]


def _compute_all(compute: _Compute, candidates: Sequence[Candidate], piece: Batch) -> list[Tensor]:
    # Inference mode is per thread, so it is entered here.
    with torch.inference_mode():
        return [compute(one, piece) for one in candidates]


def _counts(one: Candidate, piece: Batch) -> Tensor:
    """(N, 3) int64: the pixels that are fake and called so, called so, and fake."""
    called = one.logits(piece.inputs(one.sources)) > 0.0
    found = called & piece.truth
    return torch.stack([count_pixels(some) for some in (found, called, piece.truth)], dim=1)


def _counts_of_masks(one: Candidate, piece: Batch) -> Tensor:
    """(N, thresholds + regions, 3) int64: as `_counts`, of `THRESHOLDS`, then `MIN_REGIONS`."""
    logits = one.logits(piece.inputs(one.sources)).float()
    both = [_counts_at_thresholds(logits, piece.truth), _counts_at_min_regions(logits, piece.truth)]
    return torch.cat(both, dim=1)


def _counts_at_thresholds(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, thresholds, 3) int64: as `_counts`, at each of `THRESHOLDS`."""
    levels, flat = _levels(logits), truth.flatten(1)
    called, found = _pixels_at_thresholds(levels), _pixels_at_thresholds(levels, flat)
    fake = count_pixels(truth)[:, None]
    return torch.stack([found, called, fake.expand_as(called)], dim=-1)


def _counts_at_min_regions(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, regions, 3) int64: as `_counts`, without regions below each of `MIN_REGIONS`."""
    called, masks = (logits > 0.0).cpu().numpy(), truth.cpu().numpy()
    counts = np.empty((len(called), len(MIN_REGIONS), 3), np.int64)
    for image, (own, mask) in enumerate(zip(called, masks, strict=True)):
        sizes, found = region_counts(own, mask)
        is_kept = sizes >= np.array(MIN_REGIONS)[:, None] * own.size
        counts[image, :, 0] = is_kept @ found
        counts[image, :, 1] = is_kept @ sizes
        counts[image, :, 2] = np.count_nonzero(mask)
    return torch.from_numpy(counts).to(logits.device)


def _shares_at_thresholds(one: Candidate, piece: Batch) -> Tensor:
    """(N, thresholds) float64: the share of pixels called fake, at each of `THRESHOLDS`."""
    levels = _levels(one.logits(piece.inputs(one.sources)).float())
    return _pixels_at_thresholds(levels).double() / levels.shape[1]


def _levels(logits: Tensor) -> Tensor:
    """(N, pixels) int64: of `THRESHOLDS` in their order, at how many a pixel is called fake."""
    maps = torch.sigmoid(logits).flatten(1)
    return torch.bucketize(maps, torch.tensor(THRESHOLDS, device=maps.device))


def _pixels_at_thresholds(levels: Tensor, where: Tensor | None = None) -> Tensor:
    """(N, thresholds) int64: the pixels called fake, of all or of those of a mask."""
    n = len(THRESHOLDS) + 1
    places = levels + n * torch.arange(len(levels), device=levels.device)[:, None]
    chosen = places if where is None else places[where]
    counts = torch.bincount(chosen.flatten(), minlength=n * len(levels)).view(-1, n)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def _mean_iou(counts: Tensor, feed: BatchFeed, real_share: float) -> Tensor:
    """Return the mean IoU over images of rows' counts (N, ..., 3), (...) in percent.

    Fakes and real images have each their share.
    """
    images, first = np.unique(feed.image_of, return_index=True)
    image_of = torch.from_numpy(feed.image_of).to(counts.device)
    of_images = counts.new_zeros((len(images), *counts.shape[1:])).index_add_(0, image_of, counts)
    ious = iou_from_counts(*of_images.unbind(-1))
    if not real_share:
        return ious.mean(0)
    is_fake = torch.from_numpy(feed.labels[first] == 1).to(counts.device)
    return (1 - real_share) * ious[is_fake].mean(0) + real_share * ious[~is_fake].mean(0)


def _image_scores(one: Candidate, piece: Batch) -> Tensor:
    """(N,) float64."""
    logits = one.logits(piece.inputs(one.sources)).float()
    pooling = one.decoder.pooling
    scores: Tensor = (
        logits.double().sigmoid().mean(dim=(1, 2))
        if pooling is None
        else pooling(logits).double().sigmoid()
    )
    return scores


def _logits_and_labels(one: Candidate, piece: Batch) -> Tensor:
    """(N, 2) float32."""
    assert one.decoder.pooling is not None
    logits = one.decoder.pooling(one.logits(piece.inputs(one.sources)).float())
    return torch.stack([logits, piece.targets], dim=1)
