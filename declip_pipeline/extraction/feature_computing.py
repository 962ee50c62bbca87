"""Batches of images through a backbone, and their features to the host, overlapped on CUDA."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.features import StoredFeatures, encode_features
from declip_pipeline.store.format import layer_key, scales_key

# Batches that a CUDA device has been given and has not finished. Two keep it busy.
BATCHES_ON_DEVICE = 2


class ComputedBatch:
    """Features of a batch in their stored type, maybe still on their way from the device."""

    def __init__(
        self, features: Mapping[str, StoredFeatures], arrived: Callable[[], object] | None = None
    ) -> None:
        self._features = features
        self._arrived = arrived

    def row_arrays(self, row: int, layer: str) -> dict[str, np.ndarray]:
        """The arrays of one image's layer, by name, once they have arrived."""
        if self._arrived is not None:
            self._arrived()
        arrays = self._features[layer].as_arrays(layer_key(layer), scales_key(layer))
        return {name: array[row] for name, array in arrays.items()}


class FeatureComputer:
    """Runs a backbone over batches; on CUDA, copies overlap with computing.

    Images go to a CUDA device from pinned memory on a stream of their own, features are encoded
    there and come back into pinned memory on another, so that the device never waits for the host
    between two batches. Source: PyTorch's notes on CUDA semantics (pinned memory, `record_stream`).
    """

    def __init__(self, backbone: Backbone, dtype: str, times: StageTimes) -> None:
        self.backbone = backbone
        self._dtype = dtype
        self._times = times
        self._device = backbone.device
        if self._device.type == "cuda":
            self._incoming = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._outgoing = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._under_way: deque[_CudaTimers] = deque()

    def compute(
        self, pictures: Sequence[np.ndarray], layers: Sequence[str], full_batch: int
    ) -> ComputedBatch:
        """Features of some images (HWC uint8 RGB, all of the backbone's input size).

        A compiled backbone always sees `full_batch` of them, the last one repeated: each size would
        be compiled again. What is raised when the device's memory is too small,
        `is_out_of_memory` knows.
        """
        if self.backbone.is_compiled:
            pictures = [*pictures, *[pictures[-1]] * (full_batch - len(pictures))]
        if self._device.type == "cuda":
            return self._compute_on_cuda(pictures, layers)
        with self._times.measure("copy"):
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        with self._times.measure("forward"):
            outputs = self.backbone.features(batch, layers)
        with self._times.measure("encode"):
            return ComputedBatch(self._encoded(outputs))

    def finish(self) -> None:
        """Wait for the device and count its times."""
        if self._device.type == "cuda":
            while self._under_way:
                self._under_way.popleft().count(self._times)

    def _compute_on_cuda(
        self, pictures: Sequence[np.ndarray], layers: Sequence[str]
    ) -> ComputedBatch:
        while len(self._under_way) >= BATCHES_ON_DEVICE:
            self._under_way.popleft().count(self._times)
        computing = torch.cuda.current_stream(self._device)
        timers = _CudaTimers()
        shape = (len(pictures), *pictures[0].shape)
        # The allocator of pinned memory gives it to another batch only after the copy.
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        np.stack(pictures, out=pinned.numpy())
        with torch.cuda.stream(self._incoming), timers.measure("copy", self._incoming):
            batch = pinned.to(self._device, non_blocking=True)
        computing.wait_stream(self._incoming)
        batch.record_stream(computing)
        with timers.measure("forward", computing):
            outputs = self.backbone.features(batch.permute(0, 3, 1, 2), layers)
        with timers.measure("encode", computing):
            encoded = self._encoded(outputs)
        self._outgoing.wait_stream(computing)
        with torch.cuda.stream(self._outgoing), timers.measure("copy", self._outgoing):
            arriving = {
                layer: StoredFeatures(
                    stored.dtype,
                    self._to_host(stored.values),
                    None if stored.scales is None else self._to_host(stored.scales),
                )
                for layer, stored in encoded.items()
            }
        self._under_way.append(timers)
        return ComputedBatch(arriving, timers.last.synchronize)

    def _encoded(self, outputs: Mapping[str, Tensor]) -> dict[str, StoredFeatures]:
        return {
            layer: encode_features(values, self._dtype, is_grid=self.backbone.layers[layer].is_grid)
            for layer, values in outputs.items()
        }

    def _to_host(self, values: Tensor) -> Tensor:
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        values.record_stream(self._outgoing)
        return pinned


class _CudaTimers:
    """Events around the stages of one batch, read when the device has passed the last of them."""

    def __init__(self) -> None:
        self._stages: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, stage: str, stream: torch.cuda.Stream) -> Iterator[None]:
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # A thread that waits for it sleeps: others need the core.
        end = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        start.record(stream)
        yield
        end.record(stream)
        self._stages.append((stage, start, end))

    @property
    def last(self) -> torch.cuda.Event:
        return self._stages[-1][2]

    def count(self, times: StageTimes) -> None:
        """Wait for the batch to be done, and count its stages' seconds."""
        self.last.synchronize()
        for stage, start, end in self._stages:
            times.add(stage, start.elapsed_time(end) / 1e3)
