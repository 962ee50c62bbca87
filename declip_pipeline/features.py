"""Shape and dtype of features."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from declip_pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

INT8_PEAK = 127
SCALE_DTYPE = "float32"


@dataclass(frozen=True)
class FeatureShape:
    """Shape of one image's features in one layer.

    Args:
        channels: Number of channels.
        height: Number of rows of positions.
        width: Number of columns of positions.
        prefix_tokens: None for a grid, stored as (channels, height, width). Otherwise the layer
            is a sequence, stored as (prefix_tokens + height * width, channels): the class token
            (and the registers of backbones that have them), then the patches in row order.
    """

    channels: int
    height: int
    width: int
    prefix_tokens: int | None = None

    @property
    def is_grid(self) -> bool:
        """Return whether the layer is a grid of channels rather than a sequence of tokens."""
        return self.prefix_tokens is None

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one image's array, without the batch dimension."""
        if self.prefix_tokens is None:
            return (self.channels, self.height, self.width)
        return (self.prefix_tokens + self.height * self.width, self.channels)

    def to_json(self) -> dict[str, Any]:
        """Return the shape as plain JSON values."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "prefix_tokens": self.prefix_tokens,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FeatureShape":
        """Return the shape that `to_json` described."""
        return cls(**value)


@dataclass(frozen=True)
class FeatureDtype:
    """Dtype in which features are stored.

    Args:
        name: Name of the dtype as a user gives it.
        stored: NumPy dtype of the array. bfloat16 is stored as its 16 bits, since neither
            zarr-python nor HDF5 knows it.
        scale_per: For int8, which numbers of an image share one scale: those of a token (a
            position of a grid) or those of a channel.
    """

    name: str
    stored: str
    scale_per: Literal["token", "channel"] | None = None

    def scale_shape(self, shape: FeatureShape) -> tuple[int, ...] | None:
        """Return the shape of one image's scales, which broadcasts against its features.

        None for a dtype without scales.
        """
        if self.scale_per is None:
            return None
        shared = _shared_axes(self.scale_per, shape.is_grid)
        return tuple(1 if axis in shared else side for axis, side in enumerate(shape.array_shape))


FEATURE_DTYPES: Mapping[str, FeatureDtype] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            FeatureDtype("float16", "float16"),
            FeatureDtype("bfloat16", "uint16"),
            FeatureDtype("float32", "float32"),
            FeatureDtype("int8", "int8", "token"),
            FeatureDtype("int8-per-channel", "int8", "channel"),
        )
    }
)


def feature_dtype(name: str) -> FeatureDtype:
    """Return the dtype called `name`.

    Raises:
        InputError: There is no such dtype; the message lists those that there are.
    """
    if name not in FEATURE_DTYPES:
        raise InputError(
            f"dtype {name!r} is not known; expected one of {', '.join(FEATURE_DTYPES)}"
        )
    return FEATURE_DTYPES[name]


@dataclass(frozen=True)
class StoredFeatures:
    """Features of N images in the dtype of a store.

    Args:
        dtype: Name of the `FeatureDtype`.
        values: (N, *shape) in that dtype.
        scales: (N, *scale_shape) float32 for int8, else None.
    """

    dtype: str
    values: "torch.Tensor"
    scales: "torch.Tensor | None" = None

    @classmethod
    def from_arrays(cls, dtype: str, *arrays: "np.ndarray") -> "StoredFeatures":
        """Wrap a store's arrays: the values and, for int8, the scales."""
        import torch

        values, *scales = (torch.from_numpy(array) for array in arrays)
        return cls(dtype, values.view(torch.bfloat16) if dtype == "bfloat16" else values, *scales)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def tensors(self) -> "tuple[torch.Tensor, ...]":
        """`values` and, for int8, `scales`."""
        return (self.values,) if self.scales is None else (self.values, self.scales)

    def __getitem__(self, rows: "torch.Tensor") -> "StoredFeatures":
        return StoredFeatures(self.dtype, *(tensor[rows] for tensor in self.tensors))

    def to(self, device: "torch.device") -> "StoredFeatures":
        """Return the features on `device`, still in the stored dtype, so few bytes are copied."""
        return StoredFeatures(self.dtype, *(to_device(tensor, device) for tensor in self.tensors))

    def as_arrays(self, values_name: str, scales_name: str) -> "dict[str, np.ndarray]":
        """Return the arrays to store, by name; the second one only where there are scales."""
        import torch

        bits = self.dtype == "bfloat16"
        arrays = {
            values_name: (self.values.view(torch.uint16) if bits else self.values).cpu().numpy()
        }
        if self.scales is not None:
            arrays[scales_name] = self.scales.cpu().numpy()
        return arrays

    def decoded(self) -> "torch.Tensor":
        """Return the features as float32, (N, *shape)."""
        if self.scales is not None:
            return self.values.float() * self.scales.float()
        return self.values.float()


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return a tensor on `device`; to CUDA through pinned memory, so the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def encode_features(features: "torch.Tensor", dtype: str, *, is_grid: bool) -> StoredFeatures:
    """Return features (N, *shape) as they are stored in `dtype`.

    int8 rounds to the nearest of 255 steps between minus and plus the largest magnitude among
    the numbers that share a scale, which is float32: small numbers keep their precision.
    """
    import torch

    kind = feature_dtype(dtype)
    if kind.scale_per is None:
        return StoredFeatures(dtype, features.to(getattr(torch, dtype)))
    shared = [1 + axis for axis in _shared_axes(kind.scale_per, is_grid)]
    features = features.float()
    scales = features.abs().amax(shared, keepdim=True) / INT8_PEAK
    steps = torch.where(scales > 0, features / scales.float(), 0)
    values = steps.round().clamp(-INT8_PEAK, INT8_PEAK).to(torch.int8)
    return StoredFeatures(dtype, values, scales)


def rounded_features(features: "torch.Tensor", dtype: str, *, is_grid: bool) -> "torch.Tensor":
    """Return features (N, *shape) as float32, as read back from a store of `dtype`."""
    return encode_features(features, dtype, is_grid=is_grid).decoded()


def _shared_axes(scale_per: Literal["token", "channel"], is_grid: bool) -> tuple[int, ...]:
    """Return the axes of one image's array along which numbers share a scale.

    The array is (channels, height, width) for a grid, else (tokens, channels).
    """
    if scale_per == "token":
        return (0,) if is_grid else (1,)
    return (1, 2) if is_grid else (0,)
