"""The cheap figure that a training looks at after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.core_threads import MapParts
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.feeding.feature_source import FeatureSource
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
    for one in judged:
        one.decoder.eval()

    scores: list[list[Tensor]] = [[] for _ in judged]
    for batch in feed.batches(np.arange(len(feed)), batch_size):
        for size in dict.fromkeys(one.piece_size for one in judged):
            numbers = [number for number, one in enumerate(judged) if one.piece_size == size]
            ious_of = partial(_ious_of, [judged[number] for number in numbers])
            for ious in map_pieces(ious_of, batch.pieces(size or len(batch))):
                for number, found in zip(numbers, ious, strict=True):
                    scores[number].append(found)
    return [float(torch.cat(found).mean()) for found in scores]


def _ious_of(judged: Sequence[Judged], piece: Batch) -> list[Tensor]:
    # Here, since inference mode is a thread's own.
    with torch.inference_mode():
        return [
            intersection_over_union(
                one.logits(piece.inputs(one.sources)), piece.masks, threshold=0.0
            )
            for one in judged
        ]
