"""The cheap figure that a training looks at after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.feature_source import FeatureSource
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.metrics.intersection_over_union import intersection_over_union


@dataclass(frozen=True)
class Judged:
    """A decoder, how its logits (N, 256, 256) are computed, and the sources that it is fed."""

    decoder: Decoder
    logits: Callable[[Sequence[Tensor]], Tensor]
    sources: Sequence[FeatureSource]


def validation_ious(
    judged: Sequence[Judged], feed: Feed, batch_size: int, piece_size: int | None = None
) -> list[float]:
    """Mean over pictures of each decoder's IoU in percent, at its own 256x256.

    Masks are the training targets, fake where more than half of a pixel is. `piece_size` pictures
    of a batch are computed at once, all where None.
    """
    for one in judged:
        one.decoder.eval()
    scores: list[list[Tensor]] = [[] for _ in judged]
    with torch.inference_mode():
        for batch in feed.batches(np.arange(len(feed)), batch_size):
            for piece in batch.pieces(piece_size or len(batch)):
                for one, found in zip(judged, scores, strict=True):
                    logits = one.logits(piece.inputs(one.sources))
                    found.append(intersection_over_union(logits, piece.masks, threshold=0.0))
    return [float(torch.cat(found).mean()) for found in scores]
