"""Means, variances and covariances of the channels of patches."""

import torch
from torch import Tensor

# Float32 features do not resolve a standard deviation below this fraction of their mean: such a
# channel is constant and is not scaled up to variance 1.
LEAST_SPREAD = 1e-6


class PatchMoments:
    """Means and variances of patches that come in pieces; with `joint`, also covariances.

    Pieces are centred before they are squared, and combined in float64 (Chan, Golub & LeVeque
    1983), so that a small variance beside a large mean is not lost to rounding.
    """

    def __init__(self, channels: int, *, joint: bool) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        shape = (channels, channels) if joint else (channels,)
        self._squares = torch.zeros(shape, dtype=torch.float64)

    def add(self, patches: Tensor) -> None:
        """Add patches (P, channels), float32, on any device."""
        mean = patches.mean(0, dtype=torch.float64)
        centred = patches - mean.to(patches.dtype)
        if self._is_joint:
            squares = centred.T @ centred
        else:
            squares = centred.square().sum(0, dtype=torch.float64)
        shift = mean.cpu() - self.mean
        total = self.count + len(patches)
        weight = self.count * len(patches) / total
        self._squares += squares.double().cpu()
        # In place: covariances of many channels take gigabytes.
        if self._is_joint:
            self._squares.addr_(shift, shift, alpha=weight)
        else:
            self._squares += shift.square() * weight
        self.mean += shift * (len(patches) / total)
        self.count = total

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each channel (channels,), float64; 1 where it is constant."""
        deviation = self._deviation
        deviation[self.constant_channels] = 1.0
        return deviation

    @property
    def constant_channels(self) -> list[int]:
        """Channels without a spread that float32 resolves, in order."""
        is_constant = self._deviation <= LEAST_SPREAD * self.mean.abs()
        return [int(channel) for channel in is_constant.nonzero()]

    @property
    def covariance(self) -> Tensor:
        """Covariances of the channels (channels, channels), float64; only with `joint`."""
        return self._squares / self.count

    def components(self, count: int) -> Tensor:
        """Return principal components of the standardised patches, (count, channels), float64.

        Ordered by falling variance. This is the PCA of all patches, not an estimate of it.
        """
        spread = self.spread
        correlation = self._squares / self.count / torch.outer(spread, spread)
        vectors: Tensor = torch.linalg.eigh(correlation).eigenvectors
        return vectors.flip(1)[:, :count].T

    @property
    def _deviation(self) -> Tensor:
        variance = (self._squares.diag() if self._is_joint else self._squares) / self.count
        return variance.clamp_min(0).sqrt()

    @property
    def _is_joint(self) -> bool:
        return self._squares.ndim == 2
