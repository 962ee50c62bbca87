"""Contract of a backbone: a frozen network that computes features of images, layer by layer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from declip_pipeline.errors import DeclipError, InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import BackbonePrecision

INTERPOLATIONS = ("bilinear", "bicubic")
PRECISIONS = get_args(BackbonePrecision)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing from an image to a backbone's input; part of a feature store's identity.

    The 8-bit RGB image is resized to (height, width) pixels without a crop, with antialiasing. The
    backbone then scales it to [0, 1], subtracts `mean` and divides by `std`, per channel.
    Raises `UnknownNameError` for an interpolation that is not in `INTERPOLATIONS`.
    Source: DeCLIP (arXiv 2409.08849), whose backbones see 224x224 bilinear images.
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
        """Return the preprocessing as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """Invert `to_json`."""
        return cls(**(value | {"mean": tuple(value["mean"]), "std": tuple(value["std"])}))


class Backbone(ABC):
    """Frozen network that computes the features of its layers.

    The base class of every backbone. A backbone of one's own that is a PyTorch network is made by
    `NetworkBackbone`, without a subclass. Anything else subclasses `Backbone`, sets the first three
    attributes and defines `weights_sha256` and `features`; the other members have defaults for a
    backbone that computes on the CPU in float32. `declip_pipeline.testing.backbones` tests the
    contract.

    Attributes:
        name: Canonical name, such as "CLIP:ViT-L/14"; part of a store's identity. Opening a run
            again opens the backbone by this name.
        layers: Shape of each layer's features by the layer's name, in order of depth.
        preprocessing: Size, interpolation and normalization of the input.
        precision: Type of the forward pass. float32 is the reference; the others are autocast.
        is_compiled: Whether `compile` was called. Batches of a compiled backbone are padded to one
            size.
    """

    name: str
    layers: dict[str, FeatureShape]
    preprocessing: Preprocessing
    precision: str = "float32"
    is_compiled: bool = False

    @property
    @abstractmethod
    def weights_sha256(self) -> str:
        """SHA-256 that changes with the weights, 64 hex digits; part of a store's identity."""

    @abstractmethod
    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute features of the requested layers, and nothing deeper than the deepest of them.

        Args:
            images: (N, 3, height, width) RGB of the size of `preprocessing`, uint8 in [0, 255] or
                floating in [0, 1], on any device; not normalized.
            layers: Names of layers, in any order; repeats count once.

        Returns:
            Float32 (N, *array_shape) for each layer, in order of depth, contiguous, on the
            backbone's device, detached.

        Raises:
            UnknownNameError: A layer is not in `layers` (`in_depth_order` checks this).
            InputError: The images have another shape or type (`check_images` checks this).
        """

    @property
    def device(self) -> torch.device:
        """Device of the weights and of the computed features."""
        return torch.device("cpu")

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to `device` and return the backbone itself."""
        if torch.device(device).type != "cpu":
            raise InputError(f'{self.name} computes on the CPU only; use `device="cpu"`')
        return self

    def in_precision(self, precision: str) -> Self:
        """Compute in one of `PRECISIONS` from now on, and return the backbone itself.

        Raises `UnknownNameError`; `InputError` where the backbone has no such precision.
        """
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        if precision != "float32":
            raise InputError(f'{self.name} computes in float32 only; use `precision="float32"`')
        return self

    def compile(self, backend: str = "inductor") -> Self:
        """Compute with `torch.compile` from now on, and return the backbone itself.

        The first pass over batches of a new size takes about a minute; features differ by rounding.
        Raises `DeclipError` where the backbone cannot be compiled; so does `features` where this
        machine cannot compile.
        """
        raise DeclipError(f"{self.name} cannot be compiled; leave out `compile`")

    @property
    def networks(self) -> list[nn.Module]:
        """PyTorch networks that hold the weights; an ONNX export needs them."""
        return []

    def in_depth_order(self, layers: Sequence[str]) -> list[str]:
        """Return `layers` without repeats, shallowest first. Raises `UnknownNameError`."""
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


Size = tuple[int, int]
"""Height and width in pixels."""


def require_multiple(name: str, size: Size, step: int) -> None:
    """Raise `InputError` unless height and width are multiples of a backbone's patch or stride."""
    if any(side < step or side % step for side in size):
        near = [max(1, round(side / step)) * step for side in size]
        # Tiles are square, and take a single number.
        remedy = (
            f"an `image_size`, or `tiles`, such as {near[0]}"
            if near[0] == near[1]
            else f"an `image_size` such as {near[0]}x{near[1]}"
        )
        raise InputError(
            f"images of {size[0]}x{size[1]} pixels for {name}, which takes multiples of {step}; "
            f"take {remedy}"
        )


def choose_precision(precision: str, device_type: str) -> str:
    """Return `precision`, or for "auto" bfloat16 on "cuda" and float32 elsewhere."""
    if precision != "auto":
        return precision
    return "bfloat16" if device_type == "cuda" else "float32"
