"""Seconds of an extraction by stage, over all threads."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from types import MappingProxyType

# What each stage is, in the order in which an image meets them.
STAGES: Mapping[str, str] = MappingProxyType(
    {
        "hash": "reading every file once, for the identity of the store",
        "decode": "reading, decoding and resizing images and masks, in threads of their own",
        "wait": "the backbone's thread waits for decoded images",
        "copy": "images to the device, features back",
        "forward": "the backbone",
        "encode": "features to the type they are stored in",
        "queue": "the backbone's thread waits for shards to be written",
        "write": "checksums and files, in threads of their own",
    }
)


class StageTimes:
    """Adds up the seconds that each stage takes; threads may measure at the same time."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the wall time inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Count `seconds` to a stage."""
        with self._lock:
            self.seconds[stage] += seconds

    def add_all(self, seconds: Mapping[str, float]) -> None:
        """Count what another process measured, stage by stage."""
        for stage, value in seconds.items():
            self.add(stage, value)

    def take(self) -> dict[str, float]:
        """The seconds by stage so far; counting starts again."""
        with self._lock:
            taken, self.seconds = self.seconds, dict.fromkeys(STAGES, 0.0)
        return taken
