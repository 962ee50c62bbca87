"""The shape of one image's features in one layer: the word that all parts share."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FeatureShape:
    """Features of one image in one layer.

    `prefix_tokens` is None for a grid, stored as (channels, height, width). Otherwise the layer
    is a sequence, stored as (prefix_tokens + height * width, channels), with the class token (and
    registers, where the backbone has them) first and the patches in row order behind them.
    """

    channels: int
    height: int
    width: int
    prefix_tokens: int | None = None

    @property
    def is_grid(self) -> bool:
        """Whether the layer is a grid of channels rather than a sequence of tokens."""
        return self.prefix_tokens is None

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one image's array, without the batch dimension."""
        if self.prefix_tokens is None:
            return (self.channels, self.height, self.width)
        return (self.prefix_tokens + self.height * self.width, self.channels)

    def to_json(self) -> dict[str, Any]:
        """The shape as plain JSON values."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "prefix_tokens": self.prefix_tokens,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FeatureShape":
        """The inverse of `to_json`."""
        return cls(**value)
