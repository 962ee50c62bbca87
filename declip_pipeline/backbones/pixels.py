"""The image itself as a backbone: for decoders that are whole networks and learn from pixels."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from declip_pipeline.backbones.backbone import Preprocessing, Size
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

LAYER = "pixels"
SIDES = range(32, 1025)

HALF = (0.5, 0.5, 0.5)


def open_pixels(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open "pixels:SIDE": images resized straight to a square, bilinear, scaled to [-1, 1].

    Its one layer, `pixels`, is a grid of 3 channels. float16 keeps it to 1/32 of the step between
    two neighbours of the 256 levels.
    Raises `InputError` for another side than `SIDES`, or for weights: there are none. `size` can
    only repeat what the name says.
    Source: the scaling is that of Xception's ImageNet weights, and of Patch Forensics (Chai et
    al., ECCV 2020).
    """
    match = re.fullmatch(r"pixels:([1-9][0-9]{0,4})", name)
    if match is None or int(match[1]) not in SIDES:
        raise InputError(
            f"arch {name!r}; expected pixels:SIDE with a whole number from {SIDES[0]} to "
            f"{SIDES[-1]}, such as pixels:299"
        )
    if weights is not None:
        raise InputError(
            f"weights {weights!r} for {name}, which is the image itself and has none; leave "
            "`weights` out"
        )
    side = int(match[1])
    if size not in (None, (side, side)):
        raise InputError(f"{name} says its size itself; leave out `image_size`, or name another")
    # A network all the same, so that devices, checks and exports are those of any other.
    network = nn.Identity()

    def compute(images: Tensor, _layers: list[str]) -> Mapping[str, Tensor]:
        return {LAYER: network(images)}

    return NetworkBackbone(
        name,
        network,
        layers={LAYER: FeatureShape(3, side, side)},
        preprocessing=Preprocessing(side, side, "bilinear", HALF, HALF),
        compute=compute,
    )
