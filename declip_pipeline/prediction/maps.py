"""Maps of one image: those of its windows, as they are computed, to one of its own size."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from declip_pipeline.images.resize import resized_strips
from declip_pipeline.images.tiles import Window
from declip_pipeline.training.predictor import WindowMaps, detection_score


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

    def strips(self) -> Iterator[np.ndarray]:
        """Yield the map at the image's size from the top, (rows, width) float32 in [0, 1]."""
        (maps,) = self._maps
        self._small, self._each = maps.small[0], maps.each[:, 0]
        total = 0.0
        for strip in resized_strips(self._small, *self.size):
            total += float(strip.sum(dtype=np.float64))
            yield strip
        self._score = total / (self.size[0] * self.size[1])
        if maps.pooled is not None:
            self._score = detection_score(maps.pooled)

    @property
    def small(self) -> np.ndarray:
        """The map (h, w) float32 in [0, 1], as fine as the decoder's."""
        assert self._small is not None, "known after the strips"
        return self._small

    @property
    def each(self) -> np.ndarray:
        """The map of each run, (runs, h, w) float32 in [0, 1]."""
        assert self._each is not None, "known after the strips"
        return self._each

    @property
    def score(self) -> float:
        """Score of the image in [0, 1], higher = more likely fake."""
        return self._score
