"""Mean of several decoders: the map is the sigmoid of the mean of their logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.features import FeatureShape


class AveragedDecoders:
    """Decoders whose logits are averaged; a single decoder is its own mean.

    Attributes:
        members: The decoders, in evaluation mode, on one device.
    """

    def __init__(self, members: Sequence[Decoder]) -> None:
        """Take decoders of one task and output size; see `require_averageable`."""
        self.members = tuple(member.eval() for member in members)

    @property
    def task(self) -> str:
        """Task of the trainings: "localization", or "detection" for labels of images."""
        return "localization" if self.members[0].pooling is None else "detection"

    @property
    def output_size(self) -> int:
        """Side of the maps in pixels."""
        return self.members[0].output_size

    @property
    def input_shapes(self) -> tuple[FeatureShape, ...]:
        """Shapes of the features that `logits` takes: those of the first decoder, then others."""
        return tuple(shape for member in self.members for shape in member.input_shapes)

    @property
    def device(self) -> torch.device:
        """Device of the decoders."""
        return next(self.members[0].parameters()).device

    @property
    def pooling_name(self) -> str | None:
        """Name of the pooling, "max+mean" where the decoders have several; None without one."""
        names = [member.pooling.name for member in self.members if member.pooling is not None]
        return "+".join(sorted(set(names))) or None

    def to(self, device: torch.device) -> "AveragedDecoders":
        """Move the decoders to a device."""
        for member in self.members:
            member.to(device)
        return self

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of each decoder, (decoders, N, output_size, output_size) float32.

        Args:
            features: A batch for each of `input_shapes`.
        """
        remaining = iter(features)
        found = [
            member(*(next(remaining) for _ in member.input_shapes)).float()
            for member in self.members
        ]
        # Of one, without a copy.
        return found[0][None] if len(found) == 1 else torch.stack(found)

    def pooled(self, logits: Tensor) -> Tensor:
        """Return the mean of the decoders' pooled logits, (N,) float64; only with a pooling.

        Args:
            logits: Of `logits`; of any height and width.
        """
        own = [
            member.pooling(maps).double()
            for member, maps in zip(self.members, logits, strict=True)
            if member.pooling is not None
        ]
        return torch.stack(own).mean(0)


def mean_logits(logits: Tensor) -> Tensor:
    """Return the mean over decoders of their logits (decoders, N, h, w): (N, h, w)."""
    return logits[0] if len(logits) == 1 else logits.mean(0)


def require_averageable(maps: Sequence[Mapping[str, Any]]) -> None:
    """Raise `IdentityMismatchError` where maps cannot be averaged, naming the field that differs.

    Args:
        maps: For each decoder its `task`, what it sees as `tiles`, and its `output_size`.
    """
    first = maps[0]
    for other in maps[1:]:
        for name, expected in first.items():
            if other[name] != expected:
                raise IdentityMismatchError(
                    f"{name} differs: the first run has {expected!r}, another {other[name]!r}; "
                    "their maps have no mean, take them apart"
                )
