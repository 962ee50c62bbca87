"""IoU, F1 and average precision of maps against their masks, a whole batch at a time."""

import torch
from torch import Tensor

from declip_pipeline.compute import mapping_parts
from declip_pipeline.metrics.average_precision import average_precision_of_ranking
from declip_pipeline.metrics.certain_regions import certain_regions
from declip_pipeline.metrics.f1_score import f1_best, f1_fixed
from declip_pipeline.metrics.intersection_over_union import iou_from_counts
from declip_pipeline.metrics.map_checks import (
    as_probabilities,
    check_masks_are_bool,
    check_same_shape,
)
from declip_pipeline.metrics.ranking import rank_pixels

# On a device, or by all cores together.
PIXELS_AT_ONCE = 2**22
# By one core: four pictures of 256x256. Of one, the calls outweigh the work (2.4 ms of processor
# time a picture against 1.5 for four); more leave the caches.
PIXELS_OF_A_PART = 2**18


def has_fake(masks: Tensor) -> Tensor:
    """Which images have a fake pixel: (N, H, W) bool to (N,) bool.

    An image without one still gets numbers (AP is 0, IoU and F1 are 100 and 1 for a map that
    stays quiet, else 0): they say nothing about localization, so report such images apart.
    """
    return masks.flatten(1).any(dim=1)


def localization_metrics(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """The four localization metrics of each image.

    maps: (N, H, W) floating point in [0, 1], computed with as float32. masks: (N, H, W) bool,
    True = fake.
    Returns: (N,) float64 tensors on the device of `maps`:
    `iou` at threshold 0.5, in percent; `f1_best` and `f1_fixed` (threshold 0.5), 0 to 1, the band
    along the mask's outline ignored; `ap` over all pixels, 0 to 1.
    A map that is constant over the judged pixels has `f1_best` = `f1_fixed`, and an image all of
    whose pixels lie in the ignored band has F1 1, for nothing in it can be judged.

    On a CPU images are shared out to torch's threads, each on one core.

    Memory beside the inputs, measured on a CPU: 35 bytes a pixel and 45 a fake pixel, for at most
    2^22 pixels at a time (0.34 GB), or for one image where that is larger (a picture of
    20,000x20,000 needs 14 to 32 GB).
    Raises: InputError when shapes, devices, dtypes or values do not fit.
    Source: DeCLIP, section 4; F1 as in TruFor (Guillaro et al., CVPR 2023).
    """
    check_same_shape(maps, masks)
    check_masks_are_bool(masks)
    on_cpu = maps.device.type == "cpu"
    pixels = maps.shape[1] * maps.shape[2]
    at_once = max(1, min(PIXELS_AT_ONCE, PIXELS_OF_A_PART if on_cpu else PIXELS_AT_ONCE) // pixels)
    workers = min(torch.get_num_threads(), PIXELS_AT_ONCE // (at_once * pixels)) if on_cpu else 1
    pairs = list(zip(torch.split(maps.detach(), at_once), torch.split(masks, at_once), strict=True))
    with mapping_parts(min(workers, len(pairs))) as map_parts:
        parts = list(map_parts(_metrics_of_part, pairs))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _metrics_of_part(maps_and_masks: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    maps, masks = as_probabilities(maps_and_masks[0]), maps_and_masks[1]
    certain_fake, certain_real = certain_regions(masks)
    ranking = rank_pixels(maps, masks, certain_fake | certain_real)
    fixed = ranking.at_fixed
    return {
        "iou": iou_from_counts(fixed.found, fixed.called, ranking.in_all.found),
        "f1_best": f1_best(ranking),
        "f1_fixed": f1_fixed(ranking),
        "ap": average_precision_of_ranking(ranking),
    }
