"""A decoder's scores of whole pictures, fake ones and real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.feature_source import FeatureSource
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.store.reader import Store

MEAN_SIGMOID, MEAN_LOGIT = "mean_sigmoid", "mean_logit"
"""Scores that every decoder's map gives: the reference's, and what its training pooled."""


@dataclass(frozen=True)
class PictureScores:
    """One picture: `label` 1 fake, 0 real; `scores` by name, 0 to 1, higher = more likely fake.

    `scene` is what it shows, as `scene_of_stored` has it."""

    id: str
    split: str
    generator: str
    label: int
    scores: dict[str, float]
    scene: str


def score_names(decoder: Decoder) -> tuple[str, ...]:
    """The scores that a decoder gives: of both means, and of its own pooling if it is another."""
    own = decoder.pooling
    return (MEAN_SIGMOID, MEAN_LOGIT, *(() if own is None or own.name == "mean" else (own.name,)))


def picture_scores(decoder: Decoder, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores (N,) float64 of maps of logits (N, h, w), by the names of `score_names`.

    `mean_sigmoid` is the mean of the map's probabilities, `mean_logit` the sigmoid of its mean
    logit, and a decoder's own pooling ("max", "learned") the sigmoid of what it makes of the map.
    Source: DeCLIP (arXiv 2409.08849), trained by the mean logit and scored by the mean sigmoid.
    """
    maps = logits.float()
    scores = {
        # In float64: pictures that are all fake or all real to a decoder must not become equal.
        MEAN_SIGMOID: maps.double().sigmoid().mean(dim=(1, 2)),
        MEAN_LOGIT: maps.double().mean(dim=(1, 2)).sigmoid(),
    }
    for name in score_names(decoder)[len(scores) :]:
        assert decoder.pooling is not None
        scores[name] = decoder.pooling(maps).double().sigmoid()
    return scores


def score_rows(
    decoder: Decoder,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PictureScores]:
    """Score rows of a store, from maps of the decoder's own size, in the order of `rows`.

    `sources` are what it is fed. `progress` is told pictures done and in all.
    """
    feed = Feed([(store, rows)], sources, device=device, tier="stream", targets="labels")
    decoder.eval()
    found: dict[int, dict[str, float]] = {}
    with torch.inference_mode(), exact_float32(device):
        # As they lie in the store.
        for batch in feed.batches(np.argsort(rows), batch_size):
            scores = picture_scores(decoder, decoder(*batch.inputs(sources)))
            by_picture = zip(*(values.tolist() for values in scores.values()), strict=True)
            for position, values in zip(batch.positions.tolist(), by_picture, strict=True):
                found[position] = dict(zip(scores, values, strict=True))
            progress(len(found), len(rows))
    return [
        PictureScores(
            id=store.samples[row].id,
            split=store.samples[row].split,
            generator=store.samples[row].generator,
            label=int(store.labels[row]),
            scores=found[position],
            scene=store.samples[row].scene,
        )
        for position, row in enumerate(rows.tolist())
    ]
