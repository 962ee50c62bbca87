"""Patches as a probe sees them: each channel brought to mean 0 and variance 1, then PCA."""

import torch
from torch import Tensor

# Float32 features do not resolve a spread below this share of their mean: such a channel is
# constant, and is not blown up to variance 1.
LEAST_SPREAD = 1e-6


class PatchMoments:
    """Means and variances of patches that come in pieces; with `joint`, covariances too.

    Pieces are centred before they are squared, and added up in float64 (Chan, Golub & LeVeque
    1983), so that a large mean does not drown a small variance.
    """

    def __init__(self, channels: int, *, joint: bool) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        shape = (channels, channels) if joint else (channels,)
        self._squares = torch.zeros(shape, dtype=torch.float64)

    def add(self, patches: Tensor) -> None:
        """Take in patches (P, channels), float32, on any device."""
        mean = patches.mean(0, dtype=torch.float64)
        centred = patches - mean.to(patches.dtype)
        if self._is_joint:
            squares = centred.T @ centred
        else:
            squares = centred.square().sum(0, dtype=torch.float64)
        shift = mean.cpu() - self.mean
        total = self.count + len(patches)
        between = torch.outer(shift, shift) if self._is_joint else shift.square()
        self._squares += squares.double().cpu() + between * (self.count * len(patches) / total)
        self.mean += shift * (len(patches) / total)
        self.count = total

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each channel (channels,), float64; 1 where it is constant."""
        variance = (self._squares.diag() if self._is_joint else self._squares) / self.count
        deviation: Tensor = variance.clamp_min(0).sqrt()
        deviation[deviation <= LEAST_SPREAD * self.mean.abs()] = 1.0
        return deviation

    def components(self, count: int) -> Tensor:
        """Principal components of the standardised patches, (count, channels), float64.

        Those of most variance first: PCA of all patches, not an estimate of it.
        """
        spread = self.spread
        correlation = self._squares / self.count / torch.outer(spread, spread)
        vectors: Tensor = torch.linalg.eigh(correlation).eigenvectors
        return vectors.flip(1)[:, :count].T

    @property
    def _is_joint(self) -> bool:
        return self._squares.ndim == 2


class PatchProjection:
    """What a probe computes of a patch x before it classifies it: slope * x + shift.

    `slope` is (channels,), or (channels, K) where it is a product with K components; `shift` is
    (channels,) or (K,). Both float64.
    """

    def __init__(self, slope: Tensor, shift: Tensor) -> None:
        self.slope = slope
        self.shift = shift

    @classmethod
    def of(cls, moments: PatchMoments, components: int | None) -> "PatchProjection":
        """Standardise; then, if a number of components is given, project onto so many."""
        slope = 1 / moments.spread
        if components is not None:
            slope = slope[:, None] * moments.components(components).T
            return cls(slope, -(moments.mean @ slope))
        return cls(slope, -moments.mean * slope)

    def __call__(self, patches: Tensor) -> Tensor:
        """Patches (P, channels) as (P, channels or K), in their dtype, on their device."""
        slope, shift = self.slope.to(patches), self.shift.to(patches)
        if slope.ndim == 1:
            return torch.addcmul(shift, patches, slope)
        return torch.addmm(shift, patches, slope)

    def folded(self, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (channels,) and bias () that do to a patch what the given ones do to its image.

        In float64.
        """
        straight = self.slope * weights if self.slope.ndim == 1 else self.slope @ weights
        return straight, bias + self.shift @ weights
