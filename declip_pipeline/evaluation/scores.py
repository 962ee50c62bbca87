"""Values of single images: how decoders localize forgeries, and how they score whole images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.evaluation.metrics import METRICS, PIXEL_COUNTS
from declip_pipeline.feeding.feed import Feed, TargetKind
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.localization import (
    PIXELS_AT_ONCE,
    TOP_SHARE,
    count_pixels,
    has_fake,
    intersection_over_union,
    iou_from_counts,
    localization_metrics,
)
from declip_pipeline.metrics.regions import without_small_regions
from declip_pipeline.store.reader import Store

Task = Literal["localization", "detection"]
"""Localization evaluates maps against masks, detection scores of whole images against labels."""


FALSE_ALARM_COLUMNS = (
    "score",
    "score_max",
    "score_top",
    "fake_share",
    "fake_share_valid_threshold",
    "fake_share_min_region",
)
"""Values of an image's map in itself, at its own size.

Scores of the image, in [0, 1]: `score` is the mean of the map, `score_max` its maximum, `score_top`
the mean of its highest values. The shares of pixels above thresholds: 0.5, and the one that is best
on `valid`; and of those above 0.5 without small regions. The last two are NaN where `BestOnValid`
has none.
"""

LOCALIZATION_COLUMNS = (
    "has_fake",
    *METRICS,
    *PIXEL_COUNTS,
    *FALSE_ALARM_COLUMNS,
)
"""Values of an image in localization.

`has_fake` is False for an image without a fake pixel; of such an image only `FALSE_ALARM_COLUMNS`
are meaningful. `PIXEL_COUNTS` are pixels.
"""

LOCALIZATION_DTYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(LOCALIZATION_COLUMNS, np.float64),
    **dict.fromkeys(PIXEL_COUNTS, np.int64),
    "has_fake": np.bool_,
}
"""Dtypes of `LOCALIZATION_COLUMNS`."""

MEAN_SIGMOID, MEAN_LOGIT = "mean_sigmoid", "mean_logit"
"""Image scores that every decoder's map gives."""


@dataclass(frozen=True)
class BestOnValid:
    """Threshold and minimum size of regions that were best on the split `valid`.

    None where they are not known.

    Attributes:
        threshold: Threshold of probabilities, in (0, 1).
        min_region: Minimum size of regions at 0.5, a share of the image's pixels, in [0, 1).
    """

    threshold: float | None = None
    min_region: float | None = None


Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`."""


def localize(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    best: BestOnValid = BestOnValid(),
    top_share: float = TOP_SHARE,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Evaluate decoders' maps on rows of a store, at each mask's native size.

    Whatever the batch size, maps and masks of at most `PIXELS_AT_ONCE` pixels exist at a time, or
    those of one image where it is larger.

    Args:
        decoders: The decoders, on `device`.
        store: Store with the masks.
        sources: Layers that the decoders take, of the store or of stores beside it.
        rows: Rows to evaluate, int64.
        device: Where to compute.
        best: What was best on `valid`.
        top_share: Share of the pixels that `score_top` is the mean of.
        batch_size: Images a step.
        progress: Called with the number of images done and of all.

    Returns:
        `LOCALIZATION_COLUMNS`, (N,) each, in the order of `rows`.
    """
    sizes = store.samples.sizes
    # Images of one size go through the metrics together, whatever their order in the store.
    by_size = rows[np.lexsort((rows, sizes[rows, 1], sizes[rows, 0]))]
    found = {name: np.zeros(len(rows), dtype) for name, dtype in LOCALIZATION_DTYPES.items()}
    done = 0
    for positions, logits in logits_of(
        decoders, store, sources, by_size, "masks", device, batch_size
    ):
        batch_rows, maps = by_size[positions], mean_logits(logits)
        for members in _members(sizes[batch_rows]):
            values = _localized(
                store,
                batch_rows[members],
                maps[torch.from_numpy(members)],
                best,
                top_share,
            )
            for name, value in values.items():
                found[name][positions[members]] = value.cpu().numpy()
        done += len(positions)
        progress(done, len(rows))
    place = np.argsort(by_size)[np.searchsorted(np.sort(by_size), rows)]
    return {name: values[place] for name, values in found.items()}


def detect(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    *,
    device: torch.device,
    batch_size: int = 64,
    progress: Progress = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Score whole images from decoders' maps, at the decoders' own output size.

    Arguments as in `localize`.

    Returns:
        A score for each of `score_names`, (N,) float64 in [0, 1], higher = more likely fake.
    """
    found = {name: np.zeros(len(rows)) for name in score_names(decoders)}
    in_store_order = np.argsort(rows)
    done = 0
    for positions, logits in logits_of(
        decoders, store, sources, rows, "labels", device, batch_size, in_store_order
    ):
        for name, values in image_scores(decoders, logits).items():
            found[name][positions] = values.cpu().numpy()
        done += len(positions)
        progress(done, len(rows))
    return found


def score_names(decoders: AveragedDecoders) -> tuple[str, ...]:
    """Return the names of decoders' image scores: both means, and their own pooling if another."""
    own = decoders.pooling_name
    return (MEAN_SIGMOID, MEAN_LOGIT, *(() if own is None or own == "mean" else (own,)))


def image_scores(decoders: AveragedDecoders, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Score maps of logits (decoders, N, h, w): (N,) float64 by the names of `score_names`.

    `mean_sigmoid` is the mean of the map's probabilities, `mean_logit` the sigmoid of its mean
    logit; the score of the decoders' own pooling ("max", "learned") is the sigmoid of the pooled
    logit. Source: DeCLIP (arXiv 2409.08849), trained by the mean logit, scored by the mean sigmoid.
    """
    maps = mean_logits(logits)
    scores = {
        # In float64, so that images of very high or very low scores keep different ones.
        MEAN_SIGMOID: maps.double().sigmoid().mean(dim=(1, 2)),
        MEAN_LOGIT: maps.double().mean(dim=(1, 2)).sigmoid(),
    }
    for name in score_names(decoders)[len(scores) :]:
        scores[name] = decoders.pooled(logits).sigmoid()
    return scores


def logits_of(
    decoders: AveragedDecoders,
    store: Store,
    sources: Sequence[FeatureSource],
    rows: np.ndarray,
    targets: TargetKind,
    device: torch.device,
    batch_size: int,
    order: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield positions in `rows` and the logits of these, by default in their order.

    Logits are (decoders, N, h, w).
    """
    feed = Feed([(store, rows)], sources, device=device, tier="stream", targets=targets)
    with torch.inference_mode(), exact_float32(device):
        for batch in feed.batches(np.arange(len(feed)) if order is None else order, batch_size):
            yield batch.positions, decoders.logits(batch.inputs(sources))


def _members(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield places of images of one size, of at most `PIXELS_AT_ONCE` or of a single image."""
    found, group = np.unique(sizes, axis=0, return_inverse=True)
    for number, (height, width) in enumerate(found.tolist()):
        members = np.flatnonzero(group == number)
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        for first in range(0, len(members), at_once):
            yield members[first : first + at_once]


def _localized(
    store: Store,
    rows: np.ndarray,
    logits: torch.Tensor,
    best: BestOnValid,
    top_share: float,
) -> dict[str, torch.Tensor]:
    masks = torch.from_numpy(store.read_masks(rows)).to(logits.device)
    maps = probability_maps(logits, *masks.shape[1:])
    return localization_values(maps, masks, best, top_share)


def localization_values(
    maps: torch.Tensor,
    masks: torch.Tensor,
    best: BestOnValid,
    top_share: float = TOP_SHARE,
) -> dict[str, torch.Tensor]:
    """Return `LOCALIZATION_COLUMNS` of maps (N, H, W) in [0, 1] and masks (N, H, W) bool.

    Values of what is not known to be best on `valid` are NaN. `top_share` is the share of the
    pixels that `score_top` is the mean of.
    """
    unknown = torch.full((len(masks),), torch.nan, dtype=torch.float64)
    at_valid = share_at_valid = of_regions = share_of_regions = unknown
    if best.threshold is not None:
        at_valid = intersection_over_union(maps, masks, best.threshold)
        share_at_valid = _shares(maps > best.threshold)
    if best.min_region is not None:
        kept = _without_small_regions(maps > 0.5, best.min_region)
        of_regions = iou_from_counts(*map(count_pixels, (kept & masks, kept, masks)))
        share_of_regions = _shares(kept)
    return {
        "has_fake": has_fake(masks),
        **localization_metrics(maps, masks, top_share),
        "iou_valid_threshold": at_valid,
        "iou_min_region": of_regions,
        "score": maps.mean(dim=(1, 2)),
        "fake_share": _shares(maps > 0.5),
        "fake_share_valid_threshold": share_at_valid,
        "fake_share_min_region": share_of_regions,
    }


def _without_small_regions(called: torch.Tensor, min_region: float) -> torch.Tensor:
    """Apply `without_small_regions` to each image, (N, H, W) bool."""
    if not min_region:
        return called
    kept = [without_small_regions(one, min_region) for one in called.cpu().numpy()]
    return torch.from_numpy(np.stack(kept)).to(called.device)


def _shares(called: torch.Tensor) -> torch.Tensor:
    """Return the share of pixels of each image (N, H, W) bool that are True, (N,) float64."""
    return count_pixels(called).double() / (called.shape[1] * called.shape[2])
