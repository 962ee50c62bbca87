"""Tiles: windows over an image at its native resolution, and their maps joined to one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.images.decode import SMALLEST_SIDE

DEFAULT_OVERLAP = 0.25
"""Share of a tile that it has in common with its neighbour, at least."""

# Weights are positive also where a pixel's centre lies on the very edge of its only window.
_LEAST_WEIGHT = 1e-6


class Window(NamedTuple):
    """Place of a tile in its image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the window shows of an array (H, W, ...); a view, not a copy."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Tiling:
    """Windows of one size over images of any size.

    Args:
        size: Side of a window in pixels of the image.
        overlap: Share of the size, in [0, 1), that neighbours have in common at least; rounded to
            four decimals.

    Raises:
        InputError: For a size below 16 pixels, or an overlap out of range.
    """

    size: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", round(float(self.overlap), 4))
        if not (self.size >= SMALLEST_SIDE and 0 <= self.overlap < 1):
            raise _not_a_tiling(str(self))

    def __str__(self) -> str:
        """Return the text that `parse` reads, such as "448:0.25"."""
        return f"{self.size}:{self.overlap:g}"

    @classmethod
    def parse(cls, text: "str | int | Tiling") -> "Tiling":
        """Read SIZE or SIZE:OVERLAP, such as "448" or "448:0.25".

        Raises:
            InputError: For another text, a size below 16 pixels, or an overlap out of range.
        """
        if isinstance(text, Tiling):
            return text
        found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}(?:\.\d{1,15})?))?", str(text), re.ASCII)
        if found is None or isinstance(text, bool):
            raise _not_a_tiling(str(text))
        size, overlap = found.groups()
        return cls(int(size), DEFAULT_OVERLAP if overlap is None else float(overlap))

    def windows(self, height: int, width: int) -> list[Window]:
        """Return the windows over an image, row by row.

        They are spread evenly, the last ones end at the image's border, and every pixel is in at
        least one. Along a side that is shorter than `size`, the only window has the image's side.
        """
        rows, columns = self._starts(height), self._starts(width)
        sides = min(height, self.size), min(width, self.size)
        return [Window(top, left, *sides) for top in rows for left in columns]

    def count(self, height: int, width: int) -> int:
        """Return the number of windows over an image."""
        return self._count(height) * self._count(width)

    def _count(self, side: int) -> int:
        step = max(1, round(self.size * (1 - self.overlap)))
        return 1 + -(-max(0, side - self.size) // step)

    def _starts(self, side: int) -> list[int]:
        spread = np.linspace(0, max(0, side - self.size), self._count(side))
        return [int(start) for start in spread.round()]


def _not_a_tiling(text: str) -> InputError:
    return InputError(
        f"`tiles` is {text!r}; expected SIZE or SIZE:OVERLAP, a side of at least {SMALLEST_SIDE} "
        "pixels and a share from 0 to less than 1, such as 448 or "
        f"448:{DEFAULT_OVERLAP} (in quotes in YAML)"
    )


def window_shares(places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return windows as shares of their images' sides, (N, 4) float32.

    Args:
        places: (N, 4): top, left, height, width in pixels; `Window`s.
        sizes: (N, 2): height and width of each image in pixels.
    """
    shares: np.ndarray = (places / np.tile(sizes, 2)).astype(np.float32)
    return shares


class MapJoiner:
    """Overlapping windows' maps, blended to one map of the image.

    Weights fall towards a window's edges as a squared sine and sum to 1 at every pixel, so joined
    maps have no seams, constant maps stay constant, and a window that no other overlaps is taken
    as it is. Only rows that later windows may change are held: 4 bytes a pixel of a strip as high
    as a window, whatever the size of the image.

    Example:
        >>> joiner = MapJoiner(windows, image_size=(4000, 3000), size=(4000, 3000))
        >>> strips = [joiner.add(map) for map in maps]  # in the order of `windows`
    """

    def __init__(
        self,
        windows: Sequence[Window],
        *,
        image_size: tuple[int, int],
        size: tuple[int, int] | None = None,
    ) -> None:
        """Begin a map.

        Args:
            windows: All windows over the image, as `Tiling.windows` returns them.
            image_size: Height and width of the image.
            size: Height and width of the joined map; None for those of the image.
        """
        size = image_size if size is None else size
        self._windows = windows
        self._rows = _Axis(
            [(one.top, one.height) for one in windows], length=image_size[0], places=size[0]
        )
        self._columns = _Axis(
            [(one.left, one.width) for one in windows], length=image_size[1], places=size[1]
        )
        if len(windows) != len(self._rows.spans) * len(self._columns.spans):
            raise InputError(
                f"{len(windows)} windows cover no whole grid of {len(self._rows.spans)} by "
                f"{len(self._columns.spans)}; expected all windows of an image"
            )
        self._first = 0
        self._added = 0
        self._strip = np.zeros((0, size[1]), np.float32)

    def add(self, values: np.ndarray) -> np.ndarray:
        """Add the map of the next window.

        Args:
            values: Probabilities of the window, (h, w) float in [0, 1] of any size; resized to the
                window bilinearly, with `align_corners` false.

        Returns:
            The next rows of the joined map that no later window changes, (rows, width) float32 in
            [0, 1]; no rows until the last window of a row of windows.
        """
        window = self._windows[self._added]
        rows, row_weights = self._rows.part((window.top, window.height))
        columns, column_weights = self._columns.part((window.left, window.width))
        missing = rows.stop - self._first - len(self._strip)
        if missing > 0:
            below = np.zeros((missing, self._strip.shape[1]), np.float32)
            self._strip = np.concatenate([self._strip, below])
        part = _sampled(values, self._rows, self._columns, window)
        part *= row_weights[:, None]
        part *= column_weights
        self._strip[rows.start - self._first : rows.stop - self._first, columns] += part
        self._added += 1
        return self._finished_rows()

    def _finished_rows(self) -> np.ndarray:
        if self._added == len(self._windows):
            count = len(self._strip)
        else:
            following = self._windows[self._added]
            start = self._rows.part((following.top, following.height))[0].start
            count = min(len(self._strip), start - self._first)
        finished = self._strip[:count]
        if count:
            self._strip = self._strip[count:].copy()
            self._first += count
        # Sums of products may leave [0, 1] by a rounding error.
        return np.clip(finished, 0, 1, out=finished)


def joined_map(
    windows: Sequence[Window],
    maps: Iterable[np.ndarray],
    *,
    image_size: tuple[int, int],
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Return the whole joined map, (height, width) float32; see `MapJoiner`.

    Args:
        windows: All windows over the image, as `Tiling.windows` returns them.
        maps: Probabilities of each, (h, w) in [0, 1]; taken one by one.
        image_size: Height and width of the image.
        size: Height and width of the joined map; None for those of the image.
    """
    joiner = MapJoiner(windows, image_size=image_size, size=size)
    joined = np.empty(image_size if size is None else size, np.float32)
    done = 0
    for _, values in zip(windows, maps, strict=True):
        strip = joiner.add(values)
        joined[done : done + len(strip)] = strip
        done += len(strip)
    return joined


def joined_size(
    windows: Sequence[Window], image_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[int, int]:
    """Return the size of a joined map that is as fine as the windows' maps of `map_size`."""
    first = windows[0]
    return (
        max(1, round(image_size[0] * map_size[0] / first.height)),
        max(1, round(image_size[1] * map_size[1] / first.width)),
    )


class _Axis:
    """Windows along one side of an image, seen from the places of the joined map."""

    def __init__(self, spans: Iterable[tuple[int, int]], *, length: int, places: int) -> None:
        self.spans = list(dict.fromkeys(spans))
        # Centres of the places, in pixels of the image.
        self._centres = (np.arange(places) + 0.5) * (length / places)
        total = np.zeros(places)
        for span in self.spans:
            total[self._slice(span)] += self._raw_weights(span)
        self._total = total

    def part(self, span: tuple[int, int]) -> tuple[slice, np.ndarray]:
        """Return the places in a window, and their weights, which sum to 1 over the windows."""
        places = self._slice(span)
        weights = self._raw_weights(span) / self._total[places]
        return places, weights.astype(np.float32)

    def neighbours(
        self, span: tuple[int, int], count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which of a window's `count` values lie on both sides of each place, and where
        between them the place lies, in [0, 1]."""
        start, side = span
        where = (self._centres[self._slice(span)] - start) * (count / side) - 0.5
        where = where.clip(0, count - 1)
        lower = where.astype(np.int64)
        upper = np.minimum(lower + 1, count - 1)
        return lower, upper, (where - lower).astype(np.float32)

    def _slice(self, span: tuple[int, int]) -> slice:
        start, stop = np.searchsorted(self._centres, [span[0], span[0] + span[1]]).tolist()
        return slice(start, stop)

    def _raw_weights(self, span: tuple[int, int]) -> np.ndarray:
        start, side = span
        within = (self._centres[self._slice(span)] - start) / side
        weights: np.ndarray = np.maximum(np.sin(np.pi * within) ** 2, _LEAST_WEIGHT)
        return weights


def _sampled(values: np.ndarray, rows: _Axis, columns: _Axis, window: Window) -> np.ndarray:
    """Return a window's values at the places of the joined map, float32; a new array."""
    values = np.asarray(values, np.float32)
    upper, lower, share = rows.neighbours((window.top, window.height), values.shape[0])
    by_row = values[upper]
    by_row += (values[lower] - by_row) * share[:, None]
    left, right, share = columns.neighbours((window.left, window.width), values.shape[1])
    sampled: np.ndarray = by_row[:, left]
    sampled += (by_row[:, right] - sampled) * share
    return sampled
