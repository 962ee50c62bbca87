"""Reading of maps that another tool saved: grey images and arrays, to probabilities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from declip_pipeline.errors import ImageError
from declip_pipeline.images.arrays import ArrayFile, ArrayHeader
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, loaded_upright, opened_image
from declip_pipeline.images.masks import Mask, mask_of_numbers, read_mask
from declip_pipeline.options import MapsAre

ARRAY_SUFFIXES = (".npy", ".npz")
MAP_SUFFIXES = (".png", ".tif", ".tiff", *ARRAY_SUFFIXES)
"""Suffixes of files of maps, in lower case; any case is accepted."""

MAP_KEY, SCORE_KEY = "map", "score"
"""Arrays of an .npz file of this project and of TruFor: the map, and the image's score."""

# Probabilities that were interpolated leave [0, 1] by a rounding error.
_ROUNDING = 1e-5


class Map(NamedTuple):
    """A map as it was read.

    Attributes:
        values: Probabilities of "manipulated", (height, width) float32 in [0, 1].
        lowest: Lowest value of the file.
        highest: Highest value of the file.
        is_integer: Whether the file holds integers, of which the type's largest is 1.
        score: Score of the whole image that an .npz file holds; None for others.
    """

    values: np.ndarray
    lowest: float
    highest: float
    is_integer: bool
    score: float | None = None

    @property
    def is_constant(self) -> bool:
        """Return whether all pixels have one value."""
        return self.lowest == self.highest


def read_map(
    path: Path,
    size: tuple[int, int],
    *,
    maps_are: MapsAre = "probabilities",
    resize: bool = False,
    key: str | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> Map:
    """Read a file with one map: a grey .png or .tif, an .npy, or an .npz.

    Integers of 8 and 16 bits are scaled so that 255 and 65535 are 1; 16-bit and 32-bit images
    alike. Axes of length 1 are dropped.

    Args:
        path: The file.
        size: Height and width of the image.
        maps_are: "probabilities" from 0 to 1; "logits", floating point, of which the sigmoid is
            taken; or "masks" of two values, the larger one fake.
        resize: Take a map of another size, too.
        key: Array of an .npz file; None takes "map", or the only one that can be a map.
        max_megapixels: Largest size that is read; checked, as the size is, before any value is.

    Returns:
        The map at its own size.

    Raises:
        ImageError: The file cannot be read, or its map has another size, several channels, NaN, or
            values out of range. The message is the reason in one line, without the path.
    """
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        return _of_image(path, size, maps_are, resize, max_megapixels)
    file = ArrayFile(path)
    name = _array_name(file.headers, key)
    sides = _sides(file.headers[name])
    if sides is None:
        raise ImageError(
            f"holds an array of shape {file.headers[name].shape}; one map (height, width) expected"
        )
    _require_size(sides, size, resize, max_megapixels)
    found = _of_numbers(file.read(name).reshape(sides), maps_are)
    return found._replace(score=_score(file))


def _of_image(
    path: Path,
    size: tuple[int, int],
    maps_are: MapsAre,
    resize: bool,
    max_megapixels: float,
) -> Map:
    if maps_are == "masks":
        mask = read_mask(path, fake_is_white=True, max_megapixels=max_megapixels)
        _require_size(mask.fake.shape, size, resize, max_megapixels)
        return _of_mask(mask)
    with opened_image(path) as image:
        mode = image.mode
        if mode not in ("1", "L", "I", "F") and not mode.startswith("I;16"):
            raise ImageError(
                f"has the channels {'+'.join(image.getbands())} ({mode}); a map has one grey "
                'channel (a mask of two colours is one with `maps_are="masks"`)'
            )
        _require_size((image.height, image.width), size, resize, max_megapixels, is_turned=True)
        upright = loaded_upright(image, max_megapixels)
        _require_size((upright.height, upright.width), size, resize, max_megapixels)
        numbers = np.asarray(upright)
    if mode == "I":  # 32 bits, in which Pillow also keeps 16
        lowest, highest = int(numbers.min()), int(numbers.max())
        if lowest < 0 or highest > 65535:
            raise ImageError(
                f"has grey values from {lowest} to {highest}; 0 to 65535 expected, or floating "
                "point"
            )
        numbers = numbers.astype(np.uint16)
    return _of_numbers(numbers, maps_are)


def _of_numbers(numbers: np.ndarray, maps_are: MapsAre) -> Map:
    numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
    if numbers.dtype.kind == "f":
        missing = int(np.isnan(numbers).sum())
        if missing:
            raise ImageError(f"holds NaN in {missing} of {numbers.size} pixels; numbers expected")
    if maps_are == "masks":
        is_bool = numbers.dtype.kind == "b"
        return _of_mask(mask_of_numbers(numbers.astype(np.uint8) if is_bool else numbers))
    lowest, highest = float(numbers.min()), float(numbers.max())
    found = f"values from {lowest:.4g} to {highest:.4g}"
    if numbers.dtype.kind != "f":
        if maps_are == "logits":
            raise ImageError(f"holds integers, {found}; logits are floating point")
        white = _white(numbers.dtype, highest)
        if white is None or lowest < 0:
            raise ImageError(
                f"holds {found} of type {numbers.dtype}; integers of 8 or 16 bits without a sign, "
                "0 and 1, or floating point expected"
            )
        values = numbers.astype(np.float32) / np.float32(white)
        return Map(values, lowest, highest, white > 1)
    values = numbers.astype(np.float32)
    if maps_are == "logits":
        # Beyond these, the sigmoid is 0 or 1 in float32, and the exponential overflows.
        values = 1 / (1 + np.exp(-np.clip(values, -88, 88)))
    elif lowest < -_ROUNDING or highest > 1 + _ROUNDING:
        raise ImageError(
            f'holds {found}; probabilities from 0 to 1 expected, or logits with `maps_are="logits"`'
        )
    return Map(np.clip(values, 0, 1), lowest, highest, False)


def _of_mask(mask: Mask) -> Map:
    if not mask.is_clear:
        raise ImageError(f"holds {mask.values}; a mask of two values expected")
    values = mask.fake.astype(np.float32)
    return Map(values, float(values.min()), float(values.max()), False)


def _white(dtype: np.dtype[Any], highest: float) -> int | None:
    """Return the integer that stands for 1; None where none does."""
    if dtype.kind == "b":
        return 1
    if dtype == np.uint8:
        return 255
    if dtype == np.uint16:
        return 65535
    return 1 if highest <= 1 else None


def _require_size(
    found: tuple[int, ...],
    size: tuple[int, int],
    resize: bool,
    max_megapixels: float,
    *,
    is_turned: bool = False,
) -> None:
    """Raise `ImageError` for a size that is not accepted.

    `is_turned` also accepts the sides of an image that a turn by its orientation gives.
    """
    height, width = found
    if height * width > max_megapixels * 1e6 or not height * width:
        raise ImageError(
            f"has {width}x{height} pixels; 1 to {max_megapixels:.4g} megapixels are read"
        )
    fits = (height, width) == size or (is_turned and (width, height) == size)
    if not resize and not fits:
        raise ImageError(
            f"has {width}x{height} pixels, its image {size[1]}x{size[0]}; expected a map of the "
            "image's size, or pass `resize_maps=True`"
        )


def _array_name(headers: Mapping[str, ArrayHeader], key: str | None) -> str:
    held = ", ".join(f"{name} {header.shape}" for name, header in headers.items()) or "no array"
    if key is not None and "" not in headers:
        if key not in headers:
            raise ImageError(f"holds {held}; no array is called {key}")
        return key
    if MAP_KEY in headers:
        return MAP_KEY
    if "" in headers:
        return ""
    possible = [name for name, header in headers.items() if _sides(header) is not None]
    if len(possible) != 1:
        raise ImageError(f"holds {held}; name the map with `maps_key`")
    return possible[0]


def _sides(header: ArrayHeader) -> tuple[int, int] | None:
    """Return the height and width of an array without its axes of length 1; None for no map."""
    sides = list(header.shape)
    for place in reversed(range(len(sides))):
        if len(sides) > 2 and sides[place] == 1:
            del sides[place]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _score(file: ArrayFile) -> float | None:
    """Return the image's score that a file holds beside the map."""
    header = file.headers.get(SCORE_KEY)
    if header is None or header.bytes != header.dtype.itemsize:
        return None
    score = float(file.read(SCORE_KEY).reshape(()))
    return score if 0 <= score <= 1 else None
