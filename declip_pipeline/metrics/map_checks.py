"""What every pixel metric asks of its maps and masks."""

import torch
from torch import Tensor

from declip_pipeline.errors import InputError

# Interpolation may leave [0, 1] by a rounding error; anything further is not a probability.
ROUNDING = 1e-4


def check_same_shape(maps: Tensor, masks: Tensor) -> None:
    """Refuse maps and masks that are not both (N, H, W), of one shape and on one device.

    Raises: InputError.
    """
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
    """Refuse masks that are not bool. Raises: InputError."""
    if masks.dtype != torch.bool:
        raise InputError(f"masks are {masks.dtype}; expected torch.bool, True where fake")


def as_probabilities(maps: Tensor) -> Tensor:
    """`maps` as float32 in [0, 1], rounding errors of an interpolation clipped.

    Raises: InputError on NaN and on values outside [0, 1].
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
