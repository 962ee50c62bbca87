"""Backbone of one PyTorch network."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from declip_pipeline.backbones.backbone import PRECISIONS, Backbone, Preprocessing
from declip_pipeline.backbones.onednn import use_onednn
from declip_pipeline.backbones.weights import sha256_of_tensors
from declip_pipeline.compute import exact_float32
from declip_pipeline.errors import DeclipError, UnknownNameError
from declip_pipeline.features import FeatureShape

# (normalized images, names of layers in order of depth) to the features of at least these layers.
Compute = Callable[[Tensor, list[str]], Mapping[str, Tensor]]


class NetworkBackbone(Backbone):
    """One frozen PyTorch network in evaluation mode.

    Args:
        name: Canonical name. Of a backbone that an entry point opens, the entry point's name.
        network: Network with its weights as float32; it is frozen, and set to evaluation mode.
        layers: Shape of each layer's features, in order of depth.
        preprocessing: Size, interpolation and normalization of the input.
        compute: Function of normalized images, (N, 3, height, width) float32 on the network's
            device, and of layer names in order of depth. Returns (N, *array_shape) of any floating
            type for each name. It is called without gradients, under autocast in 16-bit precisions.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        layers: Mapping[str, FeatureShape],
        preprocessing: Preprocessing,
        compute: Compute,
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        use_onednn(self.network)
        self.layers = dict(layers)
        self.preprocessing = preprocessing
        self._compute = compute
        self._compile_errors: tuple[type[Exception], ...] = ()
        self._mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        self.to(next(chain(network.parameters(), network.buffers()), self._mean).device)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 over the network's tensors, the same from any kind of file."""
        return sha256_of_tensors(self.network.state_dict())

    @property
    def device(self) -> torch.device:
        """Device of the weights and of the computed features."""
        return self._mean.device

    @property
    def networks(self) -> list[nn.Module]:
        """The one network."""
        return [self.network]

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to `device` and return the backbone itself."""
        # Convolutions are faster in this layout (EfficientNet-Lite0 on two cores: 24 ms an image
        # instead of 35); transformers run the same.
        self.network.to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def in_precision(self, precision: str) -> Self:
        """Compute in float32, or under autocast in a 16-bit type; return the backbone itself."""
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        self.precision = precision
        return self

    def compile(self, backend: str = "inductor") -> Self:
        """Compute with `torch.compile` from now on, and return the backbone itself."""
        # Imported here: it takes a second, and few runs compile.
        from torch._dynamo.exc import TorchDynamoException

        self._compile_errors = (TorchDynamoException,)
        self._compute = torch.compile(self._compute, backend=backend, dynamic=False)
        self.is_compiled = True
        return self

    @torch.no_grad()
    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute features of the requested layers, as the contract says."""
        self.check_images(images)
        names = self.in_depth_order(layers)
        if not names:
            return {}
        try:
            with self._computing():
                computed = self._compute(self._normalized(images), names)
        except self._compile_errors as error:
            raise DeclipError(
                f"{self.name} cannot be compiled here: {str(error).strip().splitlines()[0]}; "
                "leave out `compile=True`"
            ) from error
        return {name: self._checked(name, computed).float().contiguous() for name in names}

    def _computing(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return exact_float32(self.device)
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def _normalized(self, images: Tensor) -> Tensor:
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        pixels = images.to(self.device).float() / scale
        normalized = (pixels - self._mean) / self._std
        return normalized.contiguous(memory_format=torch.channels_last)

    def _checked(self, layer: str, computed: Mapping[str, Tensor]) -> Tensor:
        """Return a layer's features. Raises `DeclipError` unless they are as `layers` says."""
        if layer not in computed:
            raise DeclipError(
                f"{self.name} computes no {layer}, which its `layers` list; "
                f"its compute function returned {', '.join(computed) or 'nothing'}"
            )
        values, expected = computed[layer], self.layers[layer].array_shape
        if tuple(values.shape[1:]) != expected:
            raise DeclipError(
                f"{self.name} computes {layer} of shape {tuple(values.shape)}; its `layers` say "
                f"(N, {', '.join(map(str, expected))})"
            )
        return values


# (network, images, ascending indices, "NLC" or "NCHW") to the (patches, prefix tokens) of each.
Intermediates = Callable[[Any, Tensor, list[int], str], list[tuple[Tensor, Tensor | None]]]


@dataclass(frozen=True)
class Tower:
    """Network of a library that computes intermediate features by their index.

    Attributes:
        network: The network.
        layer_indices: Index of each layer by its name, in order of depth.
        is_sequence: Whether layers are sequences of tokens rather than grids.
        intermediates: Function that runs the network. A sequence tower returns for "NLC" patches
            (N, patches, channels) and prefix tokens (N, P, channels) or None; every tower returns
            for "NCHW" patches (N, channels, height, width).
    """

    network: nn.Module
    layer_indices: dict[str, int]
    is_sequence: bool
    intermediates: Intermediates

    def backbone(self, name: str, preprocessing: Preprocessing) -> NetworkBackbone:
        """Return the tower as a backbone."""
        return NetworkBackbone(
            name,
            self.network,
            layers=self.shapes(preprocessing.height, preprocessing.width),
            preprocessing=preprocessing,
            compute=self.compute,
        )

    def shapes(self, height: int, width: int) -> dict[str, FeatureShape]:
        """Return the shape of each layer for images of (height, width), in order of depth.

        The network runs on tensors without data: 0.3 s for ViT-L/14, where a forward pass takes
        seconds.
        """
        # On a copy that shares the weights: some networks keep tables that they build as they run.
        shared = {id(t): t for t in chain(self.network.parameters(), self.network.buffers())}
        network = deepcopy(self.network, shared)
        indices = list(self.layer_indices.values())
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            images = torch.empty(1, 3, height, width)
            outputs = self.intermediates(network, images, indices, "NCHW")
        shapes = {}
        for name, (patches, prefix) in zip(self.layer_indices, outputs, strict=True):
            channels, rows, columns = patches.shape[1:]
            prefix_tokens = 0 if prefix is None else prefix.shape[1]
            shapes[name] = FeatureShape(
                channels, rows, columns, prefix_tokens if self.is_sequence else None
            )
        return shapes

    def compute(self, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Compute features of `layers` from normalized images, prefix tokens first."""
        outputs = self.intermediates(
            self.network,
            images,
            [self.layer_indices[layer] for layer in layers],
            "NLC" if self.is_sequence else "NCHW",
        )
        return {
            layer: patches if prefix is None else torch.cat([prefix, patches], dim=1)
            for layer, (patches, prefix) in zip(layers, outputs, strict=True)
        }
