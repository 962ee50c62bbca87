"""Scores that a training computes after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.compute import MapParts
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.detection import detection_metrics
from declip_pipeline.metrics.localization import iou_from_counts


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
) -> list[float]:
    """Return the mean IoU over images of each decoder, in percent, at its own 256x256.

    Masks are the training targets: a pixel is fake where more than half of it is. The IoU of an
    image that is fed in tiles is that of the pixels of all its tiles together.

    Args:
        candidates: The decoders.
        feed: Validation images.
        batch_size: Images a batch.
        map_pieces: Maps a function over the pieces of a batch, possibly in several threads.
    """
    found = _values(_counts, candidates, feed, batch_size, map_pieces)
    image_of = torch.from_numpy(feed.image_of)
    scores = []
    for counts in found:
        of_images = counts.new_zeros((int(image_of.max()) + 1, counts.shape[1]))
        of_images.index_add_(0, image_of.to(counts.device), counts)
        scores.append(float(iou_from_counts(*of_images.unbind(1)).mean()))
    return scores


def validation_aps(
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts = map,
) -> list[float]:
    """Return the average precision over images of each decoder's pooled logits, in percent.

    The feed's targets are labels and each decoder has a pooling. Arguments as in
    `validation_ious`.
    """
    found = _values(_logits_and_labels, candidates, feed, batch_size, map_pieces)
    return [
        100 * detection_metrics(logits, labels)["average_precision"]
        for logits, labels in (both.unbind(1) for both in found)
    ]


VALIDATIONS = {"iou": validation_ious, "ap": validation_aps}
"""Validation functions by the name of their score."""

# Values (N, ...) of a decoder on a piece of a batch, on the device.
_Compute = Callable[[Candidate, Batch], Tensor]


def _values(
    compute: _Compute,
    candidates: Sequence[Candidate],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts,
) -> list[Tensor]:
    """Return each decoder's values of all images of the feed, in its order."""
    for one in candidates:
        one.decoder.eval()

    scores: list[list[Tensor]] = [[] for _ in candidates]
    for batch in feed.batches(np.arange(len(feed)), batch_size):
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
    return torch.stack([some.sum(dim=(1, 2)) for some in (found, called, piece.truth)], dim=1)


def _logits_and_labels(one: Candidate, piece: Batch) -> Tensor:
    """(N, 2) float32."""
    assert one.decoder.pooling is not None
    logits = one.decoder.pooling(one.logits(piece.inputs(one.sources)).float())
    return torch.stack([logits, piece.targets], dim=1)
