"""Maps of one image: those of its windows, as they are computed, to one of its own size."""

from collections.abc import Iterable, Iterator, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from declip_pipeline.images.resize import resized_strips
from declip_pipeline.images.tiles import MapJoiner, Window, joined_size

# Tiles' maps are finer than an image's pixels; joined, they are kept at most so large (4 MB).
_MOST_SMALL_PIXELS = 2**20


class WindowMaps(NamedTuple):
    """Maps of N windows.

    Attributes:
        small: Probabilities of all runs together, (N, h, w) float32 in [0, 1].
        each: Those of each run, (runs, N, h, w).
        pooled: (N,) float64, logits of the images, of decoders trained for detection; else None.
    """

    small: np.ndarray
    each: np.ndarray
    pooled: np.ndarray | None

    def take(self, windows: slice) -> "WindowMaps":
        """Return those of some windows."""
        pooled = None if self.pooled is None else self.pooled[windows]
        return WindowMaps(self.small[windows], self.each[:, windows], pooled)


class ImageMaps:
    """Maps of one image from those of its windows, read once, strip by strip.

    What is known at the end (`small`, `each`, `score`) is there after the last strip.

    Attributes:
        size: Height and width of the image in pixels.
    """

    def __init__(
        self, size: tuple[int, int], windows: Sequence[Window], maps: Iterable[WindowMaps]
    ) -> None:
        """Take the maps of `windows`, in their order, some at a time."""
        self.size = size
        self._windows = windows
        self._maps = maps
        self._small: np.ndarray | None = None
        self._each: np.ndarray | None = None
        self._score = 0.0

    def strips(self, *, with_each: bool = False) -> Iterator[np.ndarray]:
        """Yield the map at the image's size from the top, (rows, width) float32 in [0, 1].

        Args:
            with_each: Keep each run's map, too.
        """
        whole = Window(0, 0, *self.size)
        total = 0.0
        for strip in self._whole() if self._windows == [whole] else self._joined(with_each):
            total += float(strip.sum(dtype=np.float64))
            yield strip
        if self._pooled is None:
            self._score = total / (self.size[0] * self.size[1])
        else:
            self._score = float(1 / (1 + np.exp(-self._pooled)))

    def _whole(self) -> Iterator[np.ndarray]:
        (maps,) = self._maps
        self._small, self._each = maps.small[0], maps.each[:, 0]
        self._pooled = None if maps.pooled is None else maps.pooled[0]
        yield from resized_strips(self._small, *self.size)

    def _joined(self, with_each: bool) -> Iterator[np.ndarray]:
        self._pooled = None
        full = MapJoiner(self._windows, image_size=self.size)
        smalls: list[tuple[MapJoiner, list[np.ndarray]]] = []
        for maps in self._maps:
            kept = [maps.small, *(maps.each if with_each else ())]
            if not smalls:
                small_size = self._small_size(maps.small.shape[1:])
                smalls = [
                    (MapJoiner(self._windows, image_size=self.size, size=small_size), [])
                    for _ in kept
                ]
            for number, window_map in enumerate(maps.small):
                for (joiner, strips), own in zip(smalls, kept, strict=True):
                    strips.append(joiner.add(own[number]))
                strip = full.add(window_map)
                if len(strip):
                    yield strip
        joined = [np.concatenate(strips) for _, strips in smalls]
        self._small = joined[0]
        self._each = np.stack(joined[1:]) if with_each else None

    def _small_size(self, map_size: Sequence[int]) -> tuple[int, int]:
        height, width = joined_size(self._windows, self.size, (map_size[0], map_size[1]))
        factor = min(1.0, sqrt(_MOST_SMALL_PIXELS / (height * width)))
        return max(1, int(height * factor)), max(1, int(width * factor))

    @property
    def small(self) -> np.ndarray:
        """The map (h, w) float32 in [0, 1], as fine as the decoder's, of a million values at most
        where windows are joined."""
        assert self._small is not None, "known after the strips"
        return self._small

    @property
    def each(self) -> np.ndarray:
        """The map of each run, (runs, h, w) float32 in [0, 1]."""
        assert self._each is not None, "known after the strips, where asked for"
        return self._each

    @property
    def score(self) -> float:
        """Score of the image in [0, 1], higher = more likely fake."""
        return self._score
