"""Several backbones as one, with their grids concatenated."""

from collections.abc import Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import sha256_of_json

FUSED_LAYER = "layer3"


class FusedBackbone(Backbone):
    """First backbone's layers, each with `layer3` of every further ResNet behind its channels.

    Layer names, grids and the images' resizing are the first one's. Its prefix tokens are dropped,
    and the ResNets' grids are resized bilinearly to its grid.
    Source: DeCLIP (arXiv 2409.08849), ViT-L/14 + RN50.
    Raises `InputError` when a part has no such grid, or the parts see images of other sizes.
    """

    def __init__(self, parts: Sequence[Backbone]) -> None:
        self.parts = list(parts)
        first, *others = self.parts
        self.name = ",".join(part.name for part in self.parts)
        self.preprocessing = first.preprocessing
        for part in others:
            self._check(part)
        extra = sum(part.layers[FUSED_LAYER].channels for part in others)
        self.layers = {
            layer: FeatureShape(shape.channels + extra, shape.height, shape.width)
            for layer, shape in first.layers.items()
        }

    def _check(self, part: Backbone) -> None:
        shape = part.layers.get(FUSED_LAYER)
        if shape is None or not shape.is_grid:
            raise InputError(
                f"{part.name} cannot stand behind {self.parts[0].name} in a fusion: its "
                f"{FUSED_LAYER} must be a grid; put the ViT first and a ResNet behind it"
            )
        mine, theirs = self.preprocessing, part.preprocessing
        if (mine.height, mine.width) != (theirs.height, theirs.width):
            raise InputError(
                f"{part.name} sees {theirs.height}x{theirs.width} images, "
                f"{self.parts[0].name} {mine.height}x{mine.width}; "
                "the parts of a fusion must see the same"
            )

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 over the parts' hashes and preprocessings."""
        return sha256_of_json(
            [[part.weights_sha256, part.preprocessing.to_json()] for part in self.parts]
        )

    @property
    def device(self) -> torch.device:
        """Device of the parts' weights and of the computed features."""
        return self.parts[0].device

    @property
    def networks(self) -> list[nn.Module]:
        """Networks of all parts, in order."""
        return [network for part in self.parts for network in part.networks]

    def to(self, device: str | torch.device) -> Self:
        """Move the parts' weights to `device` and return the backbone itself."""
        for part in self.parts:
            part.to(device)
        return self

    def in_precision(self, precision: str) -> Self:
        """Compute every part in `precision` from now on, and return the backbone itself."""
        for part in self.parts:
            part.in_precision(precision)
        self.precision = precision
        return self

    def compile(self, backend: str = "inductor") -> Self:
        """Compile every part and return the backbone itself."""
        for part in self.parts:
            part.compile(backend)
        self.is_compiled = True
        return self

    @torch.no_grad()
    def features(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Compute features of the requested layers, (N, channels of all parts, height, width)."""
        names = self.in_depth_order(layers)
        if not names:
            self.check_images(images)
            return {}
        first, *others = self.parts
        features = first.features(images, names)
        beside = [part.features(images, [FUSED_LAYER])[FUSED_LAYER] for part in others]
        fused = {}
        for layer in names:
            shape = first.layers[layer]
            size = (shape.height, shape.width)
            resized = [
                F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
                for grid in beside
            ]
            fused[layer] = torch.cat([as_grid(features[layer], shape), *resized], dim=1)
        return fused


def as_grid(features: Tensor, shape: FeatureShape) -> Tensor:
    """Return features (N, *array_shape) as a grid (N, channels, height, width), prefix dropped."""
    if shape.prefix_tokens is None:
        return features
    patches = features[:, shape.prefix_tokens :].transpose(1, 2)
    # Not len(patches): an exported graph would have a fixed batch size.
    return patches.reshape(patches.shape[0], shape.channels, shape.height, shape.width)
