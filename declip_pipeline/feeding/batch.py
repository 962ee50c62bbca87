"""A batch of features and their targets, decoded when they are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.features import StoredFeatures, to_device
from declip_pipeline.feeding.inputs import FeatureSource

# A slice of a batch to what is stored of it. Cheap to call for parts: rows of a resident layer are
# gathered then, and stay in the processor's cache until they are used.
Features = Callable[[slice], StoredFeatures]
Targets = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Batch:
    """`positions` (N,) int64, which of the feed's samples these are."""

    positions: np.ndarray
    device: torch.device
    stored_features: Mapping[FeatureSource, Features]
    stored_targets: Targets
    part: slice = field(default_factory=lambda: slice(None))

    def __len__(self) -> int:
        return len(self.positions)

    def features(self, source: FeatureSource) -> Tensor:
        """(N, *shape of the source's layer) float32 on the device."""
        (features,) = self.inputs([source])
        return features

    def inputs(self, sources: Sequence[FeatureSource]) -> list[Tensor]:
        """The features of each source: what a decoder of them is called with."""
        # Kept for the next decoder of the same; all that others use would leave the cache.
        for source in self._decoded.keys() - set(sources):
            del self._decoded[source]
        for source in sources:
            if source not in self._decoded:
                stored = self.stored_features[source](self.part)
                self._decoded[source] = stored.to(self.device).decoded()
        return [self._decoded[source] for source in sources]

    @cached_property
    def targets(self) -> Tensor:
        """(N, 256, 256) float32 on the device, 0 real .. 1 fake, soft along outlines.

        Of a feed of labels (N,), 0 real or 1 fake.
        """
        return self._targets_as_stored.float() / 255

    @cached_property
    def truth(self) -> Tensor:
        """`targets` as bool on the device, True where more than half of one is fake."""
        return self._targets_as_stored > 127

    def pieces(self, size: int) -> Iterator["Batch"]:
        """The same in parts of at most `size` samples."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield Batch(
                self.positions[start : start + size],
                self.device,
                self.stored_features,
                self.stored_targets,
                slice(start, min(start + size, len(self))),
            )

    @cached_property
    def _targets_as_stored(self) -> Tensor:
        return to_device(self.stored_targets(self.part), self.device)

    @cached_property
    def _decoded(self) -> dict[FeatureSource, Tensor]:
        return {}


class BatchFeed(Protocol):
    """Samples at the positions 0..len-1, in batches on a device."""

    device: torch.device

    def __len__(self) -> int: ...

    @property
    def description(self) -> str:
        """What is fed and from where, in a line."""
        ...

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """The ids of the samples at these positions."""
        ...

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Batches of the samples at the positions `order` (int64); the last one may be smaller."""
        ...
