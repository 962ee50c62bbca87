"""Reading of mask files: which pixels are fake, and whether the file's values say so clearly."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, loaded_upright, opened_image

WHITE_FROM = 128
"""Smallest grey value, of 255, that counts as white in a mask of more than two values."""

_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
# Compression moves the values of black and white by less than this.
_NOISE = 32
# Difference of a pixel's channels from which it has a colour; compression of greys stays below.
_COLOURED_FROM = 48
# Share of the pixels that may be coloured, or of flat middle grey, without a meaning of their own.
_FEW = 0.001
# An area of one grey holds blocks of pixels of nearly one value; a soft edge crosses its blocks.
_BLOCK, _FLAT = 4, 4


class Mask(NamedTuple):
    """A mask as it was read.

    Attributes:
        fake: HW bool at the mask's own size, True = fake.
        values: What the file holds besides black and white, "" for nothing: "the values 0 and 1".
        is_clear: Whether the values say which pixels are fake. Two values do.
    """

    fake: np.ndarray
    values: str = ""
    is_clear: bool = True


def decode_mask(
    source: Path | bytes, *, fake_is_white: bool, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> np.ndarray:
    """Decode a mask file to fake pixels, HW bool, True = fake; see `read_mask`."""
    return read_mask(source, fake_is_white=fake_is_white, max_megapixels=max_megapixels).fake


def read_mask(
    source: Path | bytes, *, fake_is_white: bool, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> Mask:
    """Read a mask file.

    Of two values, whatever they are, the larger is white: 0 and 1, 0 and 255 in 16 bits, class
    numbers of a palette, black and red. Of more values, those from the middle of the range are
    white (128 of 255; colours by their luma). Where all pixels have one colour and the alpha
    channel varies, that is the mask. The EXIF orientation is applied as for images, so that image
    and mask stay aligned.

    Args:
        source: Path of the file, or its content.
        fake_is_white: Whether white pixels are fake; otherwise black ones are.
        max_megapixels: Largest size that is decoded, checked from the header before decoding.

    Raises:
        ImageError: As `decode_image`.
    """
    with opened_image(source) as image:
        is_lossy = image.format in _LOSSY
        upright = loaded_upright(image, max_megapixels)
        colours = None
        if upright.mode[0] in "IF" or upright.mode in ("1", "L"):
            numbers = np.asarray(upright)
            if numbers.dtype == bool:
                numbers = numbers.astype(np.uint8) * np.uint8(255)
        else:
            numbers, colours = _of_colours(upright)
    white, values, is_clear = mask_of_numbers(numbers, is_lossy=is_lossy)
    if colours is not None:
        values, is_clear = _said_of_colours(colours)
    return Mask(white if fake_is_white else ~white, values, is_clear)


def _of_colours(image: Image.Image) -> tuple[np.ndarray, Image.Image | None]:
    """Return the channel that holds the mask, HW uint8, and the image in RGB if it has colours."""
    if image.mode in ("RGBa", "La"):  # colours premultiplied by alpha: undo that first
        image = image.convert(image.mode.upper())
    rgb = image.convert("RGB")
    if rgb.getcolors(1) is not None:
        others = [np.asarray(image)] if image.mode == "P" else []
        if image.has_transparency_data:
            others.append(np.asarray(image.convert("RGBA").getchannel("A")))
        for other in others:
            if other.min() != other.max():
                return other, None
    red, green, blue = rgb.split()
    highest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lowest = ImageChops.darker(ImageChops.darker(red, green), blue)
    chroma = ImageChops.difference(highest, lowest).histogram()
    is_coloured = sum(chroma[_COLOURED_FROM:]) > _FEW * sum(chroma)
    return np.asarray(rgb.convert("L")), rgb if is_coloured else None


def mask_of_numbers(numbers: np.ndarray, *, is_lossy: bool = False) -> Mask:
    """Return the white pixels of an array (H, W) as fake; see `read_mask`.

    Args:
        numbers: Unsigned integers or floating point.
        is_lossy: Whether compression may have moved the values.

    Raises:
        ImageError: For values out of range.
    """
    lowest, highest = numbers.min(), numbers.max()
    if not np.isfinite([lowest, highest]).all():
        raise ImageError(f"has grey values from {lowest} to {highest}; numbers expected")
    if lowest != highest and not (is_lossy and highest - lowest < _NOISE):
        between = (numbers != lowest) & (numbers != highest)
        if not between.any():
            is_usual = lowest == 0 and highest == _white_of(numbers, highest)
            values = "" if is_usual else f"the values {lowest:.6g} and {highest:.6g}"
            return Mask(numbers == highest, values, True)
    white = _white_of(numbers, highest)
    if lowest < 0 or highest > white:
        raise ImageError(
            f"has grey values from {lowest:.4g} to {highest:.4g}; 0 to {white} expected"
        )
    if numbers.dtype == np.uint8:
        grey = numbers
    else:
        grey = np.rint(numbers.astype(np.float64) * (255 / white)).astype(np.uint8)
    if lowest == highest == 1 and not is_lossy:
        return Mask(np.ones(grey.shape, bool), "one value, 1, read as white", True)
    return Mask(grey >= WHITE_FROM, *_said_of_greys(grey, is_lossy))


def _white_of(numbers: np.ndarray, highest: float) -> int:
    """Return the number that stands for white: of 8 bits even where a file keeps them in more."""
    if numbers.dtype.kind == "f":
        return 1 if highest <= 1 else 255
    return 255 if highest <= 255 else 65535


def _said_of_greys(grey: np.ndarray, is_lossy: bool) -> tuple[str, bool]:
    """Return the unusual greys of a mask of not two values, and whether they are clear."""
    low, high = int(grey.min()), int(grey.max())
    if is_lossy and (high < _NOISE or low >= 256 - _NOISE):
        return "", True
    if low == high:
        return ("", True) if low in (0, 255) else (f"one value, {low}", False)
    if high < WHITE_FROM or low >= WHITE_FROM:
        return f"grey values from {low} to {high} alone", False
    highest, lowest = _of_blocks(grey, np.maximum), _of_blocks(grey, np.minimum)
    is_middle = (lowest >= _NOISE) & (highest < 256 - _NOISE)
    flat = lowest[is_middle & (highest - lowest <= _FLAT)]
    if flat.size <= _FEW * lowest.size:
        return "", True
    most = int(np.bincount(flat).argmax())
    share = flat.size / lowest.size
    return f"areas of middle greys, most of them {most} ({share:.1%} of the pixels)", False


def _of_blocks(grey: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Return the extreme of each block of pixels; what is left at the lower and right edge is not
    in a block.
    """
    height, width = (side // _BLOCK * _BLOCK for side in grey.shape)
    rows = extreme.reduce([grey[start:height:_BLOCK, :width] for start in range(_BLOCK)])
    found: np.ndarray = extreme.reduce([rows[:, start::_BLOCK] for start in range(_BLOCK)])
    return found


def _said_of_colours(colours: Image.Image) -> tuple[str, bool]:
    """Return the colours of a mask, and whether they are clear: two of which one is a grey are."""
    array = np.asarray(colours).reshape(-1, 3)
    bins = (array >> 5).astype(np.int64) @ [64, 8, 1]
    counts = np.bincount(bins, minlength=512)
    is_two = colours.getcolors(2) is not None
    texts, greys = [], 0
    for place in counts.argsort(kind="stable")[::-1][:4]:
        if counts[place] > (0 if is_two else _FEW * len(array)):
            mean = np.rint(array[bins == place].mean(axis=0)).astype(int).tolist()
            greys += max(mean) - min(mean) < _COLOURED_FROM
            texts.append(",".join(map(str, mean)) + f" ({counts[place] / len(array):.1%})")
    return f"the colours {', '.join(texts)}", is_two and bool(greys)
