"""The picture itself as a backbone: for decoders that are whole networks and learn from pixels."""

import re
from typing import Any

from torch import Tensor, nn

from declip_pipeline.backbones.architecture_names import PIXELS
from declip_pipeline.backbones.contract import Preprocessing
from declip_pipeline.backbones.network_backbone import NetworkBackbone
from declip_pipeline.backbones.tower import Tower
from declip_pipeline.errors import InputError

LAYER = "pixels"
SIDES = range(32, 1025)

HALF = (0.5, 0.5, 0.5)


def open_pixels(name: str, weights: str | None) -> NetworkBackbone:
    """`pixels:SIDE`: pictures resized straight to a square, bilinear, scaled to -1..1.

    Its one layer, `pixels`, is a grid of 3 channels. float16 keeps it to 1/32 of the step between
    two neighbours of the 256 levels.
    Raises `InputError` for another side than `SIDES`, or for weights: there are none.
    Source: the scaling is that of Xception's ImageNet weights, and of Patch Forensics (Chai et
    al., ECCV 2020).
    """
    match = re.fullmatch(rf"{PIXELS}:([1-9][0-9]{{0,4}})", name)
    if match is None or int(match[1]) not in SIDES:
        raise InputError(
            f"arch {name!r}; expected {PIXELS}:SIDE with a whole number from {SIDES[0]} to "
            f"{SIDES[-1]}, such as {PIXELS}:299"
        )
    if weights is not None:
        raise InputError(
            f"weights {weights!r} for {name}, which is the picture itself and has none; leave "
            "--weights out"
        )
    side = int(match[1])
    # Nothing to compute, but everything that a network gets: devices, checks, exports.
    tower = Tower(nn.Identity(), {LAYER: 0}, False, _as_it_is)
    return NetworkBackbone(name, tower, Preprocessing(side, side, "bilinear", HALF, HALF))


def _as_it_is(
    network: Any, images: Tensor, indices: list[int], _output_format: str
) -> list[tuple[Tensor, Tensor | None]]:
    return [(network(images), None) for _ in indices]
