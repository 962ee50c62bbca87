"""What every backbone is: a frozen network that gives the features of its layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape

INTERPOLATIONS = ("bilinear", "bicubic")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a backbone; part of a feature store's identity.

    The 8-bit RGB picture is resized straight to (height, width), without a crop, with antialias.
    The backbone itself then scales to 0..1, subtracts `mean` and divides by `std`, per channel.
    Source: DeCLIP (arXiv 2409.08849), whose backbones see 224x224 bilinear pictures.
    """

    height: int
    width: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownNameError("interpolation", self.interpolation, INTERPOLATIONS)

    def to_json(self) -> dict[str, Any]:
        """The preprocessing as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`."""
        return cls(**(value | {"mean": tuple(value["mean"]), "std": tuple(value["std"])}))


class Backbone(ABC):
    """A frozen network: names its layers and their shapes, and computes their features.

    `name` is canonical ("CLIP:ViT-L/14"); `layers` maps names to shapes, in order of depth.
    """

    name: str
    layers: dict[str, FeatureShape]
    preprocessing: Preprocessing
    # Of the forward pass; float32 is the reference, the others run under autocast.
    precision: str = "float32"
    is_compiled: bool = False

    @property
    @abstractmethod
    def weights_sha256(self) -> str:
        """SHA-256 over the tensors of the image network, the same from any kind of file."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are, and where features come out."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """Move the weights to `device`; returns the backbone itself."""

    def in_precision(self, precision: str) -> Self:
        """Compute in float32, or under autocast in a 16-bit type; returns the backbone itself.

        Raises `UnknownNameError`.
        """
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        self.precision = precision
        return self

    def compile(self, backend: str = "inductor") -> Self:
        """Compute with `torch.compile` from now on; returns the backbone itself.

        The first pass over batches of a size takes a minute or so; features differ by rounding.
        `forward` raises `DeclipError` where this machine cannot compile.
        """
        self.is_compiled = True
        return self

    @abstractmethod
    def forward(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of the asked layers; nothing deeper than the deepest of them is computed.

        `images` is (N, 3, height, width) of `preprocessing`, uint8 0..255 or floating 0..1, on any
        device. Returns float32 of shape (N, *array_shape) for each layer, in order of depth, on
        the backbone's device, outside any gradient graph.
        Raises `UnknownNameError` for an unknown layer, `InputError` for other images.
        """

    def in_depth_order(self, layers: Sequence[str]) -> list[str]:
        """The asked layers without repeats, shallowest first. Raises `UnknownNameError`."""
        for layer in layers:
            if layer not in self.layers:
                raise UnknownNameError("layer", layer, self.layers)
        return [layer for layer in self.layers if layer in layers]

    def check_images(self, images: Tensor) -> None:
        """Raise `InputError` unless `images` is a batch of the backbone's input size and type."""
        expected = (3, self.preprocessing.height, self.preprocessing.width)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise InputError(
                f"images of shape {tuple(images.shape)}; {self.name} takes (N, "
                f"{', '.join(map(str, expected))}): resize them first"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise InputError(f"images of type {images.dtype}; expected uint8 0..255 or float 0..1")
