"""A batch of features and their targets, decoded when they are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.decoders.at_windows import features_at_windows
from declip_pipeline.features import FeatureShape, StoredFeatures, to_device
from declip_pipeline.feeding.inputs import FeatureSource


@dataclass(frozen=True)
class Rows:
    """Rows of one array, as they are stored.

    Args:
        tensors: The array and, for int8 features, its scales: (N, ...) each.
        chosen: Which of their rows in which order, (N,) int64 on their device; None for all.
            They are gathered part by part, so that a part stays in the processor's cache until it
            is used.
        pinned: Gather into pinned memory, from which a GPU copies without the host's waiting.
    """

    tensors: tuple[Tensor, ...]
    chosen: Tensor | None = None
    pinned: bool = False

    def __getitem__(self, part: slice) -> tuple[Tensor, ...]:
        if self.chosen is None:
            return tuple(tensor[part] for tensor in self.tensors)
        chosen = self.chosen[part]
        return tuple(self._gathered(tensor, chosen) for tensor in self.tensors)

    def rolled(self) -> "Rows":
        """Return the rows, each in the place before its own, the first in the last."""
        chosen = self.chosen
        if chosen is None:
            chosen = torch.arange(len(self.tensors[0]), device=self.tensors[0].device)
        return Rows(self.tensors, chosen.roll(-1), self.pinned)

    def _gathered(self, tensor: Tensor, chosen: Tensor) -> Tensor:
        if not self.pinned:
            return tensor[chosen]
        pinned = tensor.new_empty((len(chosen), *tensor.shape[1:]), pin_memory=True)
        return torch.index_select(tensor, 0, chosen, out=pinned)


@dataclass(frozen=True)
class Batch:
    """Images of a feed with their features and targets.

    Args:
        positions: (N,) int64, the images' positions in the feed.
        device: Device of `inputs` and `targets`.
        stored_features: Dtype (see `StoredFeatures`) and rows of each source's features.
        stored_targets: Rows of the targets, uint8, 255 = fake.
        part: Which of the rows are the batch's.
        at_windows: Of sources whose features are those of whole images: the shape of these, and
            where each tile lies in its image, as `features_at_windows` takes them.
    """

    positions: np.ndarray
    device: torch.device
    stored_features: Mapping[FeatureSource, tuple[str, Rows]]
    stored_targets: Rows
    part: slice = field(default_factory=lambda: slice(None))
    at_windows: Mapping[FeatureSource, tuple[FeatureShape, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def features(self, source: FeatureSource) -> Tensor:
        """Return (N, *shape of the source's layer) float32 on the device."""
        (features,) = self.inputs([source])
        return features

    def inputs(self, sources: Sequence[FeatureSource]) -> list[Tensor]:
        """Return the features of each source: the arguments of a decoder of them."""
        # Kept for the next decoder of the same; all that others use would leave the cache.
        for source in self._decoded.keys() - set(sources):
            del self._decoded[source]
        for source in sources:
            if source not in self._decoded:
                dtype, rows = self.stored_features[source]
                stored = StoredFeatures(dtype, *rows[self.part])
                decoded = stored.to(self.device).decoded()
                if source in self.at_windows:
                    shape, places = self.at_windows[source]
                    own = places[self.part].to(self.device)
                    decoded = features_at_windows(decoded, shape, own)
                self._decoded[source] = decoded
        return [self._decoded[source] for source in sources]

    @cached_property
    def targets(self) -> Tensor:
        """Targets on the device, float32: 0 real to 1 fake.

        (N, 256, 256), soft along outlines; of a feed of labels (N,).
        """
        return self._targets_as_stored.float() / 255

    @cached_property
    def truth(self) -> Tensor:
        """`targets` as bool on the device, True where more than half of a pixel is fake."""
        return self._targets_as_stored > 127

    def pieces(self, size: int) -> Iterator["Batch"]:
        """Yield the batch in parts of at most `size` images."""
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
                self.at_windows,
            )

    def rolled(self) -> "Batch":
        """Return the whole batch with its images rolled by one place, to mix each with the next."""
        assert self.part == slice(None), "a part does not know its neighbours"
        features = {
            source: (dtype, rows.rolled()) for source, (dtype, rows) in self.stored_features.items()
        }
        positions = np.roll(self.positions, -1)
        at_windows = {
            source: (shape, places.roll(-1, 0))
            for source, (shape, places) in self.at_windows.items()
        }
        return Batch(
            positions,
            self.device,
            features,
            self.stored_targets.rolled(),
            at_windows=at_windows,
        )

    @cached_property
    def _targets_as_stored(self) -> Tensor:
        return to_device(self.stored_targets[self.part][0], self.device)

    @cached_property
    def _decoded(self) -> dict[FeatureSource, Tensor]:
        return {}


class BatchFeed(Protocol):
    """Images, or tiles, at the positions 0..len-1, in batches on a device.

    Attributes:
        device: Device of the batches.
        labels: (N,) int8, 1 = fake, 0 = real.
    """

    device: torch.device
    labels: np.ndarray

    def __len__(self) -> int: ...

    @property
    def description(self) -> str:
        """A line on what is fed and from where."""
        ...

    @property
    def image_of(self) -> np.ndarray:
        """Number of the image that each position belongs to, (N,) int64; tiles share one."""
        ...

    def sample_ids(self, positions: np.ndarray) -> list[str]:
        """Return the ids of the images at these positions."""
        ...

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Yield batches of the images at the positions `order` (int64); the last may be smaller."""
        ...
