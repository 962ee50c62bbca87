"""A backbone made of one network."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from declip_pipeline.backbones.contract import Backbone, Preprocessing
from declip_pipeline.backbones.strict_weights import sha256_of_tensors
from declip_pipeline.backbones.tower import Tower, layer_shapes
from declip_pipeline.compute import exact_float32
from declip_pipeline.errors import DeclipError


class NetworkBackbone(Backbone):
    """One frozen network in evaluation mode; its layers are those of its tower."""

    def __init__(self, name: str, tower: Tower, preprocessing: Preprocessing) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.tower = tower
        tower.network.eval().requires_grad_(False)
        self.layers = layer_shapes(tower, preprocessing.height, preprocessing.width)
        self._run = self._intermediates
        self._compile_errors: tuple[type[Exception], ...] = ()
        self._mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 over the network's tensors, computed when first asked for."""
        return sha256_of_tensors(self.tower.network.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._mean.device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights to `device`; returns the backbone itself."""
        # Convolutions are faster on this layout (EfficientNet-Lite0 on two cores: 24 ms a picture
        # instead of 35); transformers do not mind.
        self.tower.network.to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def compile(self, backend: str = "inductor") -> Self:
        """Compute with `torch.compile` from now on; returns the backbone itself."""
        # Imported here: it takes a second, and few compile.
        from torch._dynamo.exc import TorchDynamoException

        self._compile_errors = (TorchDynamoException,)
        self._run = torch.compile(self._intermediates, backend=backend, dynamic=False)
        return super().compile(backend)

    @torch.no_grad()
    def forward(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of the asked layers, as the contract has it."""
        self.check_images(images)
        asked = self.in_depth_order(layers)
        if not asked:
            return {}
        indices = [self.tower.layer_indices[layer] for layer in asked]
        try:
            with self._computing():
                outputs = self._run(self._normalized(images), indices)
        except self._compile_errors as error:
            raise DeclipError(
                f"{self.name} cannot be compiled here: {str(error).strip().splitlines()[0]}; "
                "leave out --compile"
            ) from error
        features = {}
        for layer, (patches, prefix) in zip(asked, outputs, strict=True):
            whole = patches if prefix is None else torch.cat([prefix, patches], dim=1)
            features[layer] = whole.float().contiguous()
        return features

    def _intermediates(
        self, images: Tensor, indices: list[int]
    ) -> list[tuple[Tensor, Tensor | None]]:
        output_format = "NLC" if self.tower.is_sequence else "NCHW"
        return self.tower.intermediates(self.tower.network, images, indices, output_format)

    def _computing(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return exact_float32(self.device)
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def _normalized(self, images: Tensor) -> Tensor:
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        pixels = images.to(self.device).float() / scale
        normalized = (pixels - self._mean) / self._std
        return normalized.contiguous(memory_format=torch.channels_last)
