"""A decoder's localization on the rows of stores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.evaluation.maps import probability_maps
from declip_pipeline.feeding.feature_source import FeatureSource
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.metrics.localization import has_fake, localization_metrics
from declip_pipeline.store.reader import Store

METRICS = ("iou", "f1_best", "f1_fixed", "ap")


@dataclass(frozen=True)
class ImageResult:
    """One picture's figures: `iou` in percent, `f1_best`, `f1_fixed` and `ap` in [0, 1], `score`
    the mean of its map, `fake_share` the share of its pixels that are called fake at 0.5.

    `has_fake` is False for a picture without a fake pixel, whose false alarms `score` and
    `fake_share` are all that there is to judge. `scene` is what it shows, as `scene_of_stored` has
    it; empty for a scene of its own."""

    id: str
    split: str
    generator: str
    has_fake: bool
    iou: float
    f1_best: float
    f1_fixed: float
    ap: float
    score: float
    fake_share: float
    scene: str = ""


def evaluate_localization(
    decoder: Decoder,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ImageResult]:
    """Judge a decoder on rows of a store, at each mask's native size.

    `sources` are what it is fed: layers of the store, or of stores beside it.
    Returns one result a row, in the order of `rows`. `progress` is told pictures done and in all.
    """
    # Pictures of one size go through the metrics together, whatever their order in the store.
    by_size = rows[np.lexsort((rows, store.sizes[rows, 1], store.sizes[rows, 0]))]
    feed = Feed([(store, by_size)], sources, device=device, tier="stream")
    decoder.eval()
    results: dict[int, ImageResult] = {}
    with torch.inference_mode(), exact_float32(device):
        for batch in feed.batches(np.arange(len(feed)), batch_size):
            logits = decoder(*batch.inputs(sources))
            batch_rows = by_size[batch.positions]
            for members in _of_one_size(store.sizes[batch_rows]):
                results |= _judged(store, batch_rows[members], logits[torch.from_numpy(members)])
            progress(len(results), len(rows))
    return [results[row] for row in rows.tolist()]


def _of_one_size(sizes: np.ndarray) -> list[np.ndarray]:
    _, group = np.unique(sizes, axis=0, return_inverse=True)
    return [np.flatnonzero(group == number) for number in range(group.max() + 1)]


def _judged(store: Store, rows: np.ndarray, logits: torch.Tensor) -> dict[int, ImageResult]:
    masks = torch.from_numpy(store.read_masks(rows)).to(logits.device)
    maps = probability_maps(logits, *masks.shape[1:])
    figures = {name: values.tolist() for name, values in localization_metrics(maps, masks).items()}
    fakes = has_fake(masks).tolist()
    scores = maps.mean(dim=(1, 2)).tolist()
    called = (maps > 0.5).double().mean(dim=(1, 2)).tolist()
    return {
        row: ImageResult(
            id=store.samples[row].id,
            split=store.samples[row].split,
            generator=store.samples[row].generator,
            has_fake=fakes[place],
            score=scores[place],
            fake_share=called[place],
            scene=store.samples[row].scene,
            **{name: figures[name][place] for name in METRICS},
        )
        for place, row in enumerate(rows.tolist())
    }


def mean_figures(results: Iterable[ImageResult]) -> dict[str, float | int | None]:
    """Means over the pictures that have a fake pixel; those without are counted apart.

    `iou` in percent, the others in [0, 1]; None when no picture has a fake pixel.
    """
    every = list(results)
    judged = [result for result in every if result.has_fake]
    means = {
        name: float(np.mean([getattr(result, name) for result in judged])) if judged else None
        for name in METRICS
    }
    return {"images": len(judged), "images_without_fake": len(every) - len(judged), **means}


def scenes_of(results: Iterable[ImageResult]) -> np.ndarray:
    """The scene of each result, (pictures,) str: what bootstraps draw."""
    return np.array([result.scene or result.id for result in results], dtype=np.str_)


def by_generator(results: Sequence[ImageResult]) -> dict[str, list[ImageResult]]:
    """Results grouped by the generator of their picture, names sorted."""
    names = sorted({result.generator for result in results})
    return {name: [result for result in results if result.generator == name] for name in names}
