"""Picture files of any mode to RGB arrays; what cannot be used is an error with its reason."""

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from declip_pipeline.errors import ImageError
from declip_pipeline.images.pillow_guard import guarded_pillow

SMALLEST_SIDE = 16
"""Least height and width of a picture in pixels."""

DEFAULT_MAX_MEGAPIXELS = 178.0
"""Largest picture decoded unless told otherwise: 0.5 GB as RGB."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    source: Path | bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> np.ndarray:
    """Decode a picture file, or its content, to upright RGB.

    Returns HWC uint8, [0, 255], RGB, contiguous and writable, with the EXIF orientation applied
    (in a PNG where it stands before the pixels). Alpha is dropped, not composited: the stored
    colours are the evidence. 16-bit grey is scaled so that 65535 becomes 255, floating-point grey
    so that 1 becomes 255. Of an animation, the first frame.

    Raises `ImageError` with the reason in one line, without the path: an empty or unreadable or
    truncated file, no picture, less than 16x16 pixels, more than `max_megapixels` (told from the
    header, before decoding), or grey values out of range.
    """
    with _opened(source) as image:
        width, height = image.size
        if min(width, height) < SMALLEST_SIDE:
            raise ImageError(
                f"{width}x{height} pixels; at least {SMALLEST_SIDE}x{SMALLEST_SIDE} expected"
            )
        megapixels = width * height / 1e6
        if megapixels > max_megapixels:
            raise ImageError(
                f"{width}x{height} pixels = {megapixels:.4g} megapixels; "
                f"at most {max_megapixels:.4g} megapixels are read, shrink it"
            )
        orientation = _orientation(image)  # before load(), as in `image_size`
        image.load()
        upright = _as_rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        return np.array(upright)


def image_size(source: Path | bytes) -> tuple[int, int]:
    """(height, width) in pixels that `decode_image` would return, read from the header alone.

    The limits of size are not applied. Raises `ImageError` as `decode_image` does.
    """
    with _opened(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Pillow's names of the formats read.

    Named one by one: others run programs (EPS), or take nearly any file for a picture (TGA).
    """
    Image.init()
    wanted = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
    return tuple(name for name in wanted if name in Image.OPEN)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """The picture with its header read; what Pillow raises inside becomes an `ImageError`."""
    with guarded_pillow():
        try:
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                if not file.read(1):
                    raise ImageError("empty file, zero bytes; a picture was expected")
                file.seek(0)
                with Image.open(file, formats=_formats()) as image:
                    yield image
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError(
                f"is not a picture PIL can read; one of {', '.join(_formats())} expected"
            ) from error
        except MemoryError as error:
            raise ImageError("does not fit in memory; shrink it") from error
        except Exception as error:
            # Of damaged files, Pillow's plugins raise OSError, SyntaxError, ValueError,
            # struct.error, IndexError, zlib.error and more: each means that it cannot be read.
            if isinstance(error, OSError) and error.errno is not None:
                raise ImageError(f"cannot be opened: {error.strerror}") from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"is truncated or damaged ({reason})") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 from the header alone; 1 where there is none that makes sense."""
    if image.format == "TIFF":
        return 1  # Pillow applies a TIFF's orientation itself, to its size too
    try:
        # The base class's: PngImageFile.getexif decodes the whole picture to look behind it.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # damaged EXIF says nothing about the pixels
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as mode RGB, in the colours as stored."""
    mode = image.mode
    if mode.startswith("I"):  # I;16 and its byte orders, and I of 32 bits
        return _grey(_scaled(np.asarray(image), 65535))
    if mode == "F":
        return _grey(_scaled(np.asarray(image), 1))
    if mode in ("RGBa", "La"):  # colours multiplied by alpha: undo that first
        image = image.convert(mode.upper())
    return image.convert("RGB")


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """Grey values 0..`white` as uint8 0..255, rounded to the nearest."""
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # written so that NaN is refused too
        raise ImageError(
            f"has grey values from {lowest:.4g} to {highest:.4g}; 0 to {white} expected"
        )
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")
