"""The cheap figures that a training looks at after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.compute import MapParts
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.feeding.feature_source import FeatureSource
from declip_pipeline.metrics.detection import detection_metrics
from declip_pipeline.metrics.intersection_over_union import intersection_over_union


@dataclass(frozen=True)
class Judged:
    """A decoder, how its logits (N, 256, 256) are computed, and the sources that it is fed.

    `piece_size` pictures of a batch are computed at once, all where None.
    """

    decoder: Decoder
    logits: Callable[[Sequence[Tensor]], Tensor]
    sources: Sequence[FeatureSource]
    piece_size: int | None = None


def validation_ious(
    judged: Sequence[Judged],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts = map,
) -> list[float]:
    """Mean over pictures of each decoder's IoU in percent, at its own 256x256.

    Masks are the training targets, fake where more than half of a pixel is. `map_pieces` says in
    which threads pieces are computed.
    """
    found = _of_all(_iou_of, judged, feed, batch_size, map_pieces)
    return [float(ious.mean()) for ious in found]


def validation_aps(
    judged: Sequence[Judged],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts = map,
) -> list[float]:
    """Average precision over pictures, in percent, of each decoder's pooled logits.

    The feed's targets are labels, the decoders have a pooling. `map_pieces` as above.
    """
    found = _of_all(_logits_and_labels_of, judged, feed, batch_size, map_pieces)
    return [
        100 * detection_metrics(logits, labels)["average_precision"]
        for logits, labels in (both.unbind(1) for both in found)
    ]


VALIDATIONS = {"iou": validation_ious, "ap": validation_aps}
"""By the name of their score."""

# Of a decoder and a piece of a batch: (N, ...) on the device.
_Figures = Callable[[Judged, Batch], Tensor]


def _of_all(
    figures: _Figures,
    judged: Sequence[Judged],
    feed: BatchFeed,
    batch_size: int,
    map_pieces: MapParts,
) -> list[Tensor]:
    """Each decoder's figures of all pictures of the feed, in its order."""
    for one in judged:
        one.decoder.eval()

    scores: list[list[Tensor]] = [[] for _ in judged]
    for batch in feed.batches(np.arange(len(feed)), batch_size):
        for size in dict.fromkeys(one.piece_size for one in judged):
            numbers = [number for number, one in enumerate(judged) if one.piece_size == size]
            all_of = partial(_of_each, figures, [judged[number] for number in numbers])
            for each in map_pieces(all_of, batch.pieces(size or len(batch))):
                for number, found in zip(numbers, each, strict=True):
                    scores[number].append(found)
    return [torch.cat(found) for found in scores]


def _of_each(figures: _Figures, judged: Sequence[Judged], piece: Batch) -> list[Tensor]:
    # Here, since inference mode is a thread's own.
    with torch.inference_mode():
        return [figures(one, piece) for one in judged]


def _iou_of(one: Judged, piece: Batch) -> Tensor:
    maps = one.logits(piece.inputs(one.sources))
    return intersection_over_union(maps, piece.truth, threshold=0.0)


def _logits_and_labels_of(one: Judged, piece: Batch) -> Tensor:
    """(N, 2) float32."""
    assert one.decoder.pooling is not None
    logits = one.decoder.pooling(one.logits(piece.inputs(one.sources)).float())
    return torch.stack([logits, piece.targets], dim=1)
