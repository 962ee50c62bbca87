"""How features are stored: number types, and the way there and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from declip_pipeline.errors import InputError
from declip_pipeline.feature_shape import FeatureShape

if TYPE_CHECKING:
    import numpy as np
    import torch

INT8_PEAK = 127
SCALE_DTYPE = "float16"


@dataclass(frozen=True)
class FeatureDtype:
    """One way to store features.

    `stored` is the array's NumPy type: bfloat16 is kept as its 16 bits, since neither zarr-python
    nor HDF5 knows it. `scale_per` says which numbers of an image share one scale, for int8:
    those of a token (a position of a grid), or those of a channel.
    """

    name: str
    stored: str
    scale_per: Literal["token", "channel"] | None = None

    def scale_shape(self, shape: FeatureShape) -> tuple[int, ...] | None:
        """Shape of one image's scales, which broadcasts against its features; None without."""
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
    """The type of that name; `InputError` lists those there are."""
    if name not in FEATURE_DTYPES:
        raise InputError(
            f"dtype {name!r} is not known; expected one of {', '.join(FEATURE_DTYPES)}"
        )
    return FEATURE_DTYPES[name]


@dataclass(frozen=True)
class StoredFeatures:
    """Features of images as they are stored: (N, *shape) `values` and, for int8, their `scales`."""

    dtype: str
    values: "torch.Tensor"
    scales: "torch.Tensor | None" = None

    @classmethod
    def from_arrays(cls, dtype: str, *arrays: "np.ndarray") -> "StoredFeatures":
        """The features that a store's arrays hold: values, and scales where there are any."""
        import torch

        values, *scales = (torch.from_numpy(array) for array in arrays)
        return cls(dtype, values.view(torch.bfloat16) if dtype == "bfloat16" else values, *scales)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def tensors(self) -> "tuple[torch.Tensor, ...]":
        """`values`, and `scales` where there are any."""
        return (self.values,) if self.scales is None else (self.values, self.scales)

    def __getitem__(self, rows: "torch.Tensor") -> "StoredFeatures":
        return StoredFeatures(self.dtype, *(tensor[rows] for tensor in self.tensors))

    def to(self, device: "torch.device") -> "StoredFeatures":
        """The same on a device: what travels is as small as what is stored."""
        return StoredFeatures(self.dtype, *(to_device(tensor, device) for tensor in self.tensors))

    def as_arrays(self, values_name: str, scales_name: str) -> "dict[str, np.ndarray]":
        """The NumPy arrays that hold them, by name; no scales, no second array."""
        import torch

        bits = self.dtype == "bfloat16"
        arrays = {
            values_name: (self.values.view(torch.uint16) if bits else self.values).cpu().numpy()
        }
        if self.scales is not None:
            arrays[scales_name] = self.scales.cpu().numpy()
        return arrays

    def decoded(self) -> "torch.Tensor":
        """The features as float32."""
        if self.scales is not None:
            return self.values.float() * self.scales.float()
        return self.values.float()


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """A tensor on a device; to CUDA through pinned memory, so that the host need not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def encode_features(features: "torch.Tensor", dtype: str, *, is_grid: bool) -> StoredFeatures:
    """Features (N, *shape) as they are stored in `dtype`.

    int8 rounds to the nearest of 255 steps between minus and plus the largest magnitude among
    the numbers that share a scale (the scale itself is rounded to float16 first).
    """
    import torch

    kind = feature_dtype(dtype)
    if kind.scale_per is None:
        return StoredFeatures(dtype, features.to(getattr(torch, dtype)))
    shared = [1 + axis for axis in _shared_axes(kind.scale_per, is_grid)]
    features = features.float()
    scales = (features.abs().amax(shared, keepdim=True) / INT8_PEAK).half()
    steps = torch.where(scales > 0, features / scales.float(), 0)
    values = steps.round().clamp(-INT8_PEAK, INT8_PEAK).to(torch.int8)
    return StoredFeatures(dtype, values, scales)


def rounded_features(features: "torch.Tensor", dtype: str, *, is_grid: bool) -> "torch.Tensor":
    """Features (N, *shape) as float32, as they come back from a store of `dtype`."""
    return encode_features(features, dtype, is_grid=is_grid).decoded()


def _shared_axes(scale_per: Literal["token", "channel"], is_grid: bool) -> tuple[int, ...]:
    """The axes of one image's array along which numbers share a scale.

    The array is (channels, height, width) of a grid, else (tokens, channels).
    """
    if scale_per == "token":
        return (0,) if is_grid else (1,)
    return (1, 2) if is_grid else (0,)
