"""Metrics of probability maps against their masks, and image scores of maps, in batches."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.compute import mapping_parts
from declip_pipeline.errors import InputError
from declip_pipeline.metrics.ranking import (
    Counts,
    Ranking,
    max_by_image,
    rank_pixels,
    sum_by_image,
)

# Pixels computed at once on a device, or by all cores together.
PIXELS_AT_ONCE = 2**22
# By one core: four images of 256x256. For a single one, the overhead of the calls outweighs the
# work (2.4 ms of processor time an image against 1.5 for four); more do not fit in the caches.
PIXELS_OF_A_PART = 2**18
# Interpolation may leave [0, 1] by a rounding error; anything further is not a probability.
ROUNDING = 1e-4

IOU_EPSILON = 1e-8
F1_EPSILON = 1e-32
EROSION = 15
DILATION = 11
TOP_SHARE = 0.01
"""Share of an image's pixels whose highest values an image score is the mean of, by default."""


def has_fake(masks: Tensor) -> Tensor:
    """Return which images have a fake pixel: (N, H, W) bool to (N,) bool.

    Images without a fake pixel get numbers too (AP is 0; IoU and F1 are 100 and 1 for a map below
    the threshold everywhere, else 0). These say nothing about localization: report such images
    separately.
    """
    return masks.flatten(1).any(dim=1)


def localization_metrics(
    maps: Tensor, masks: Tensor, top_share: float = TOP_SHARE
) -> dict[str, Tensor]:
    """Compute the localization metrics of each image, its pixel counts, and scores of its map.

    On a CPU, images are distributed over torch's threads, each computing on one core. A pixel is
    called fake above 0.5, where nothing else is said.

    Args:
        maps: Probabilities (N, H, W), floating point in [0, 1]; converted to float32.
        masks: (N, H, W) bool, True = fake.
        top_share: Share of the pixels that `score_top` is the mean of, in (0, 1].

    Returns:
        (N,) tensors on the device of `maps`, float64 where nothing else is said:

        - `iou`, percent.
        - `f1_best` and `f1_fixed` (at 0.5), 0 to 1, without the band along the mask's outline. A
          map that is constant outside the band has `f1_best` equal to `f1_fixed`. An image with
          all pixels inside the band has F1 1.
        - `ap`, 0 to 1.
        - `f1`, 2 TP / (2 TP + FP + FN) over all pixels, 0 to 1; 1 where nothing is fake and
          nothing is called so. `f1_optimal`, the same at the best threshold of each image, of 0.5
          and all values of its map; see `f1_optimal`.
        - `auc`, area under the ROC curve of the pixels, 0 to 1; NaN where all pixels are fake, or
          none is.
        - `mcc`, Matthews' correlation coefficient, -1 to 1; 0 where it is not defined, since
          mask or called pixels are all alike.
        - `precision` and `recall`, 0 to 1; 0 where no pixel is called fake, or none is fake.
        - `found_pixels`, `called_pixels`, `fake_pixels`, int64: pixels that are fake and called so,
          that are called fake, that are fake.
        - `score_max` and `score_top`, image scores in [0, 1]: the maximum of the map, and the mean
          of its highest values, `top_share` of the pixels, at least one.

    Raises:
        InputError: Shapes, devices, dtypes or values do not fit.

    Memory with the inputs, measured on a CPU by benchmarks/evaluate_memory.py: at most 50 bytes a
    pixel where a quarter is fake, and 65 where all are and their values differ, for at most 2^22
    pixels at a time (0.27 GB), or for one image where that is larger.

    Source: DeCLIP, section 4; F1 with a band as in TruFor (Guillaro et al., CVPR 2023), without as
    in IMDL-BenCo (Ma et al., NeurIPS 2024); MCC, Matthews (1975).
    """
    check_same_shape(maps, masks)
    check_masks_are_bool(masks)
    require_share(top_share)
    on_cpu = maps.device.type == "cpu"
    pixels = maps.shape[1] * maps.shape[2]
    top = max(1, round(top_share * pixels))
    at_once = max(1, min(PIXELS_AT_ONCE, PIXELS_OF_A_PART if on_cpu else PIXELS_AT_ONCE) // pixels)
    workers = min(torch.get_num_threads(), PIXELS_AT_ONCE // (at_once * pixels)) if on_cpu else 1
    pairs = list(zip(torch.split(maps.detach(), at_once), torch.split(masks, at_once), strict=True))
    with mapping_parts(min(workers, len(pairs))) as map_parts:
        parts = list(map_parts(partial(_metrics_of_part, top=top), pairs))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def require_share(top_share: float) -> None:
    """Raise `InputError` for a share of pixels that is not in (0, 1]."""
    if not 0 < top_share <= 1:
        raise InputError(f"`top_share` is {top_share}; expected a share above 0 and up to 1")


def _metrics_of_part(maps_and_masks: tuple[Tensor, Tensor], top: int) -> dict[str, Tensor]:
    maps, masks = as_probabilities(maps_and_masks[0]), maps_and_masks[1]
    certain_fake, certain_real = certain_regions(masks)
    ranking = rank_pixels(maps, masks, certain_fake | certain_real, top=top)
    found, called = ranking.at_fixed.found, ranking.at_fixed.called
    fake, pixels = ranking.in_all.found, ranking.in_all.called
    return {
        "iou": iou_from_counts(found, called, fake),
        "f1_best": f1_best(ranking),
        "f1_fixed": f1_fixed(ranking),
        "ap": average_precision_of_ranking(ranking),
        "f1": f1_of_all(found, called, fake),
        "f1_optimal": f1_optimal(ranking),
        "auc": area_under_roc_of_ranking(ranking),
        "mcc": matthews_correlation(found, called, fake, pixels),
        "precision": found.double() / called.clamp(min=1),
        "recall": found.double() / fake.clamp(min=1),
        "found_pixels": found.long(),
        "called_pixels": called.long(),
        "fake_pixels": fake.long(),
        "score_max": ranking.highest[:, 0].double(),
        "score_top": ranking.highest.double().mean(dim=1),
    }


def intersection_over_union(maps: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the IoU of each image in percent: (intersection + 1e-8) / (union + 1e-8) * 100.

    An empty mask with an empty map gives 100.

    Args:
        maps: (N, H, W) floating point; a pixel is called fake when its value is greater than the
            threshold.
        masks: (N, H, W) bool (True = fake), or soft in [0, 1] (a mask resized by interpolation),
            fake where greater than 0.5.
        threshold: 0.5 for probabilities, 0.0 for logits.

    Returns:
        (N,) float64 on the device of `maps`.

    Raises:
        InputError: Shapes, devices or dtypes do not fit.

    Source: DeCLIP, section 4 (IoU at threshold 0.5); the epsilon is the reference code's.
    """
    check_same_shape(maps, masks)
    truth = masks if masks.dtype == torch.bool else masks > 0.5
    called = maps > threshold
    return iou_from_counts(*map(count_pixels, (called & truth, called, truth)))


def count_pixels(flags: Tensor) -> Tensor:
    """Return how many pixels of each image are True: (N, H, W) bool to (N,) int64."""
    # On a CPU much faster than a sum in int64, the default.
    return flags.sum(dim=(1, 2), dtype=torch.int32).long()


def iou_from_counts(found: Tensor, called: Tensor, fake: Tensor) -> Tensor:
    """Return the IoU in percent, float64, from pixel counts.

    `found` counts the fake pixels that are called fake, `called` all that are called fake, `fake`
    all that are fake.
    """
    either = called + fake - found
    return (found.double() + IOU_EPSILON) / (either.double() + IOU_EPSILON) * 100


def f1_from_counts(counts: Counts, certain_fake: Tensor) -> Tensor:
    """Return F1 at each threshold, float64, 0 to 1: (2 TP + 1e-32) / (2 TP + FP + FN + 1e-32).

    Only the certain pixels count (`certain_regions`). `certain_fake` is the number of certainly
    fake pixels of each threshold's image, (thresholds,) integer.

    Source: TruFor (Guillaro et al., CVPR 2023), whose F1 DeCLIP reports.
    """
    called_and_fake = counts.certain.double() + certain_fake
    return (2 * counts.certain_found.double() + F1_EPSILON) / (called_and_fake + F1_EPSILON)


def f1_fixed(ranking: Ranking) -> Tensor:
    """Return F1 of each image at the ranking's fixed threshold: (images,) float64, 0 to 1.

    F1 is 1 when nothing is fake and nothing is called fake.
    """
    return f1_from_counts(ranking.at_fixed, ranking.in_all.certain_found)


def f1_best(ranking: Ranking) -> Tensor:
    """Return F1 of each image at its best threshold: (images,) float64, 0 to 1.

    Only thresholds that call some but not all of the certain pixels fake are considered. A map
    that is constant over the certain pixels has no such threshold (the reference computes 0/0 and
    gives NaN) and gets its F1 at the fixed threshold instead. F1 of "all is fake" would reward a
    constant map for the size of the mask.
    """
    counts, whole = ranking.at_peaks, ranking.in_all
    f1 = f1_from_counts(counts, torch.repeat_interleave(whole.certain_found, ranking.peaks))
    all_certain = torch.repeat_interleave(whole.certain, ranking.peaks)
    is_outside = (counts.certain == 0) | (counts.certain == all_certain)
    best = max_by_image(f1.masked_fill_(is_outside, 0), ranking.peaks)
    return torch.where(ranking.varied, best, f1_fixed(ranking))


def f1_of_all(found: Tensor, called: Tensor, fake: Tensor) -> Tensor:
    """Return F1 over all pixels, 2 TP / (2 TP + FP + FN), float64, 0 to 1.

    Arguments as for `iou_from_counts`. 1 where nothing is fake and nothing is called so.
    """
    return torch.where(called + fake > 0, 2 * found.double() / (called + fake).clamp(min=1), 1.0)


def f1_optimal(ranking: Ranking) -> Tensor:
    """Return F1 over all pixels of each image at its best threshold: (images,) float64, 0 to 1.

    Thresholds are the fixed one and the values of the map; above it a pixel is called fake, so none
    calls all pixels fake, which would reward a constant map for the size of the mask. Without a
    fake pixel it is 1, since at the highest value nothing is called fake.
    """
    counts, whole = ranking.at_peaks, ranking.in_all
    f1 = f1_of_all(counts.found, counts.called, torch.repeat_interleave(whole.found, ranking.peaks))
    is_all = counts.called == torch.repeat_interleave(whole.called, ranking.peaks)
    best = max_by_image(f1.masked_fill_(is_all, 0), ranking.peaks)
    fixed = f1_of_all(ranking.at_fixed.found, ranking.at_fixed.called, whole.found)
    return torch.where(whole.found > 0, torch.maximum(best, fixed), 1.0)


def matthews_correlation(found: Tensor, called: Tensor, fake: Tensor, pixels: Tensor) -> Tensor:
    """Return Matthews' correlation coefficient, float64, -1 to 1; 0 where it is not defined.

    Arguments as for `iou_from_counts`; `pixels` counts all.
    """
    found, called, fake, pixels = (one.double() for one in (found, called, fake, pixels))
    # Of shares, since products of four counts of large images lose digits.
    joint, p, q = found / pixels, called / pixels, fake / pixels
    spread = (p * (1 - p) * q * (1 - q)).sqrt()
    return torch.where(spread > 0, (joint - p * q) / spread, 0.0).clamp(-1, 1)


def area_under_roc_of_ranking(ranking: Ranking) -> Tensor:
    """Return the area under the ROC curve of each image's pixels: (images,) float64, 0 to 1.

    It is the probability that a fake pixel has a higher value than a real one, where equal values
    count half. NaN for an image whose pixels are all fake, or all real.
    """
    whole = ranking.in_all
    fake, real = whole.found.double(), (whole.called - whole.found).double()
    return 1 - ranking.lost_pairs / (fake * real)  # 0 / 0 is NaN


def average_precision_of_ranking(ranking: Ranking) -> Tensor:
    """Return the average precision of each image: the mean precision at its fake pixels.

    The same value as `detection.average_precision`, from counts at the fake pixels alone.

    Returns:
        (images,) float64, 0 to 1; 0 for an image without a fake pixel.
    """
    precision = ranking.found.double() / ranking.called
    total = sum_by_image(precision * ranking.tied, ranking.thresholds)
    return total / ranking.in_all.found.clamp(min=1)


def widen(masks: Tensor, size: int) -> Tensor:
    """Return the maximum of masks over a square window of odd `size`, clipped at the border.

    `masks` and the result are (N, H, W) bool. Windows are combined pairwise (1, 2, 4, 8, then the
    rest), so that the cost grows with log(size).
    """
    for padding in ((size // 2, size // 2), (0, 0, size // 2, size // 2)):
        axis = 2 if len(padding) == 2 else 1
        masks = F.pad(masks, padding, value=False)
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            length = masks.shape[axis] - step
            masks = masks.narrow(axis, 0, length) | masks.narrow(axis, step, length)
            reach += step
    return masks


def certain_regions(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the certainly fake and the certainly real pixels of masks.

    Fake: the mask eroded by a 15x15 minimum filter. Real: outside the mask dilated by an 11x11
    maximum filter. Both windows are clipped at the border; the band between is ignored.

    `masks` is (N, H, W) bool, True = fake, and so are both results.

    Source: TruFor (Guillaro et al., CVPR 2023), whose F1 DeCLIP reports.
    """
    return ~widen(~masks, EROSION), ~widen(masks, DILATION)


def check_same_shape(maps: Tensor, masks: Tensor) -> None:
    """Raise `InputError` unless both are (N, H, W), of one shape and on one device."""
    if maps.ndim != 3 or maps.shape != masks.shape or 0 in maps.shape[1:]:
        raise InputError(
            f"maps have shape {tuple(maps.shape)} and masks {tuple(masks.shape)}; expected the "
            "same (images, height, width) for both; resize the maps to their masks first"
        )
    if maps.device != masks.device:
        raise InputError(
            f"maps are on {maps.device} and masks on {masks.device}; move them to one device"
        )
    if not maps.is_floating_point():
        raise InputError(f"maps are {maps.dtype}; expected floating point values")


def check_masks_are_bool(masks: Tensor) -> None:
    """Raise `InputError` for masks that are not bool."""
    if masks.dtype != torch.bool:
        raise InputError(f"masks are {masks.dtype}; expected torch.bool, True where fake")


def as_probabilities(maps: Tensor) -> Tensor:
    """Return maps as float32 in [0, 1], with rounding errors of an interpolation clipped.

    Raises `InputError` for NaN and for values outside [0, 1].
    """
    maps = maps.float()
    if maps.numel():
        low, high = (float(bound) for bound in maps.aminmax())
        # Written so that NaN, which fails every comparison, is refused too.
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise InputError(
                f"maps have values from {low:g} to {high:g}; expected probabilities in [0, 1]; "
                "apply the sigmoid first"
            )
    return maps.clamp(0, 1)
