"""Augmentation of features: flips, dropout of channels, noise, and mixing of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.compute import derived_seed, generator
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.batch import Batch
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, in the space of stored features.

    What is drawn for an image depends on (seed, epoch, position of the image in its feed) alone:
    neither on batches and pieces, nor on what is trained beside it. Dropout and noise are relative
    to each image's own channels, so that any normalization of channels sees the same. Class and
    prefix tokens stay as they are, except when images are mixed.

    Args:
        seed: Seed of the training.
        flips: Mirror half of the images, with their masks.
        channel_dropout: Share of channels without their deviation from the image's mean.
        feature_noise: Deviation of noise, in units of a channel's own over the image.
        mixup: Parameter of the Beta distribution of shares; 0 mixes nothing.
    """

    seed: int
    flips: bool
    channel_dropout: float
    feature_noise: float
    mixup: float

    @classmethod
    def of(cls, recipe: Recipe) -> "Augmentation | None":
        """Return the augmentation of a recipe, None where there is none."""
        one = cls(
            recipe.seed,
            recipe.flips,
            recipe.channel_dropout,
            recipe.feature_noise,
            recipe.mixup,
        )
        is_any = one.flips or one.channel_dropout or one.feature_noise or one.mixup
        return one if is_any else None

    def augmented(
        self,
        piece: Batch,
        followers: Batch | None,
        sources: Sequence[FeatureSource],
        shapes: Sequence[FeatureShape],
        epoch: int,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the inputs and the targets of a piece, augmented.

        Args:
            piece: Images of a batch.
            followers: For each image, another one of its batch to mix it with; for `mixup`.
            sources: Features that the decoder takes.
            shapes: Shape of each.
            epoch: Number of the epoch.
        """
        inputs, targets = self._changed(piece, sources, shapes, epoch)
        if not self.mixup:
            return inputs, targets
        assert followers is not None
        others, other_targets = self._changed(followers, sources, shapes, epoch)
        shares = torch.tensor(
            [
                generator(self.seed, "mixup", epoch, position).beta(self.mixup, self.mixup)
                for position in piece.positions.tolist()
            ],
            dtype=torch.float32,
            device=piece.device,
        )
        inputs = [_mixed(one, other, shares) for one, other in zip(inputs, others, strict=True)]
        return inputs, _mixed(targets, other_targets, shares)

    def _changed(
        self,
        piece: Batch,
        sources: Sequence[FeatureSource],
        shapes: Sequence[FeatureShape],
        epoch: int,
    ) -> tuple[list[Tensor], Tensor]:
        inputs, targets = list(piece.inputs(sources)), piece.targets
        positions = piece.positions
        for number, shape in enumerate(shapes):
            if self.channel_dropout or self.feature_noise:
                inputs[number] = self._disturbed(inputs[number], shape, positions, epoch, number)
        if self.flips:
            drawn = [generator(self.seed, "flip", epoch, n).random() < 0.5 for n in positions]
            chosen = torch.tensor(drawn, device=piece.device)
            inputs = [
                torch.where(_along(chosen, one), flipped(one, shape), one)
                for one, shape in zip(inputs, shapes, strict=True)
            ]
            if targets.ndim == 3:
                targets = torch.where(_along(chosen, targets), targets.flip(2), targets)
        return inputs, targets

    def _disturbed(
        self,
        features: Tensor,
        shape: FeatureShape,
        positions: np.ndarray,
        epoch: int,
        source: int,
    ) -> Tensor:
        """Return features with dropout of channels and noise."""
        prefix = shape.prefix_tokens or 0
        places = features if shape.is_grid else features[:, prefix:]
        axes = (2, 3) if shape.is_grid else (1,)
        mean = places.mean(axes, keepdim=True)
        deviation = places - mean
        spread = deviation.square().mean(axes, keepdim=True).sqrt()
        kept, noise = [], []
        for position in positions.tolist():
            # On the CPU, so that every device draws the same.
            draw = torch.Generator().manual_seed(
                derived_seed(self.seed, "features", epoch, position, source)
            )
            kept.append(torch.rand(shape.channels, generator=draw) >= self.channel_dropout)
            if self.feature_noise:
                noise.append(torch.randn(places.shape[1:], generator=draw))
        if self.channel_dropout:
            scale = torch.stack(kept).to(features) / (1 - self.channel_dropout)
            deviation = deviation * scale.view(mean.shape)
        changed = mean + deviation
        if self.feature_noise:
            changed = changed + self.feature_noise * spread * torch.stack(noise).to(features)
        return changed if shape.is_grid else torch.cat([features[:, :prefix], changed], dim=1)


def flipped(features: Tensor, shape: FeatureShape) -> Tensor:
    """Return features (N, *shape) mirrored left to right, prefix tokens untouched."""
    if shape.is_grid:
        return features.flip(3)
    prefix = shape.prefix_tokens or 0
    grid = features[:, prefix:].reshape(-1, shape.height, shape.width, shape.channels).flip(2)
    return torch.cat([features[:, :prefix], grid.flatten(1, 2)], dim=1)


def _mixed(one: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    share = _along(shares, one)
    return share * one + (1 - share) * other


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Return (N,) values in a shape that broadcasts against (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
