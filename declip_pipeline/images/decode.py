"""Decoding of image and mask files to arrays."""

import functools
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from declip_pipeline.errors import ImageError
from declip_pipeline.images.libtiff import ErrorHandlers, collected_errors
from declip_pipeline.images.png_chunks import SIGNATURE, without_side_chunks

# Some errors Pillow also logs, which without a handler goes to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

SMALLEST_SIDE = 16
"""Smallest accepted height and width of an image in pixels."""

DEFAULT_MAX_MEGAPIXELS = 178.0
"""Largest image decoded by default: 0.5 GB as RGB."""

_PIXELS_AT_ONCE = 2**20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


TOO_LARGE = "does not fit in memory; shrink it"
"""Reason of an image or mask that there is no memory for."""


def decode_image(
    source: Path | bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> np.ndarray:
    """Decode an image file to upright RGB.

    Alpha is dropped, not composited: the stored colours are the evidence. 16-bit grey is scaled so
    that 65535 becomes 255, floating-point grey so that 1 becomes 255. The first frame of an
    animation is decoded.

    Args:
        source: Path of the file, or its content.
        max_megapixels: Largest size that is decoded, checked from the header before decoding.

    Returns:
        HWC uint8 RGB, [0, 255], contiguous and writable, with the EXIF orientation applied (of a
        PNG only when it precedes the pixels).

    Raises:
        ImageError: The file is empty, unreadable, truncated or not an image, has less than 16x16
            pixels or more than `max_megapixels`, or grey values out of range. The message is the
            reason in one line, without the path.
    """
    with opened_image(source) as image:
        return rgb_pixels(_as_rgb(loaded_upright(image, max_megapixels)))


def decode_upright(
    source: Path | bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> Image.Image:
    """Return the image of `decode_image` as a PIL image of mode RGB. Raises `ImageError` alike."""
    with opened_image(source) as image:
        return _as_rgb(loaded_upright(image, max_megapixels))


def decode_opened(
    image: Image.Image, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> np.ndarray:
    """Return what `decode_image` returns, of a PIL image. Raises `ImageError` alike."""
    with guarded_pillow(), _errors_of_pillow():
        return rgb_pixels(_as_rgb(loaded_upright(image, max_megapixels)))


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """Return an RGB PIL image as HWC uint8, contiguous and writable.

    Strip by strip: NumPy's own conversion of a PIL image holds the pixels twice.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    strip = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        part = image if (top, bottom) == (0, height) else image.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(part)
    return pixels


def loaded_upright(image: Image.Image, max_megapixels: float) -> Image.Image:
    """Load an opened image, in its own mode, with the EXIF orientation applied.

    Raises `ImageError` for a size that is not accepted, before anything is decoded.
    """
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
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def image_size(source: Path | bytes) -> tuple[int, int]:
    """Return (height, width) of the array that `decode_image` returns, from the header alone.

    The limits on size are not applied. Raises `ImageError` as `decode_image` does.
    """
    with opened_image(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return Pillow's names of the accepted formats.

    This is an allow-list because other formats run programs (EPS) or accept nearly any file (TGA).
    """
    Image.init()
    wanted = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
    return tuple(name for name in wanted if name in Image.OPEN)


@contextmanager
def opened_image(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image and read its header; Pillow's errors inside become an `ImageError`."""
    if not isinstance(source, bytes) and source.exists() and not source.is_file():
        # To open a pipe or a device could take forever.
        raise ImageError("is no regular file; an image was expected")
    with (
        guarded_pillow(),
        _errors_of_pillow(),
        io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        start = file.read(len(SIGNATURE))
        if not start:
            raise ImageError("empty file, zero bytes; an image was expected")
        content = file
        if start == SIGNATURE:
            content = io.BytesIO(without_side_chunks(start + file.read()))
        content.seek(0)
        with Image.open(content, formats=_formats()) as image:
            yield image


@contextmanager
def _errors_of_pillow() -> Iterator[None]:
    collected_errors()
    try:
        yield
        # Libtiff goes on after an error, with what it has of the pixels.
        if errors := collected_errors():
            raise ImageError(f"is truncated or damaged ({' '.join(errors[0].split())})")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"is not an image PIL can read; one of {', '.join(_formats())} expected"
        ) from error
    except MemoryError as error:
        raise ImageError("does not fit in memory; shrink it") from error
    except Exception as error:
        # On damaged files, Pillow's plugins raise OSError, SyntaxError, ValueError,
        # struct.error, IndexError, zlib.error and more.
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"cannot be opened: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"is truncated or damaged ({reason})") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8 from the header alone; 1 where it is absent or invalid."""
    if image.format == "TIFF":
        return 1  # Pillow applies a TIFF's orientation itself, to its size too
    try:
        # The base class's method: PngImageFile.getexif decodes the whole image.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # damaged EXIF says nothing about the pixels
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to RGB, with the colours as stored."""
    mode = image.mode
    if mode.startswith("I"):  # I;16 and its byte orders, and I of 32 bits
        return _grey(_scaled(np.asarray(image), 65535))
    if mode == "F":
        return _grey(_scaled(np.asarray(image), 1))
    if mode == "RGB":
        return image
    if mode in ("RGBa", "La"):  # colours premultiplied by alpha: undo that first
        image = image.convert(mode.upper())
    return image.convert("RGB")


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """Convert grey values 0..`white` to uint8 0..255, rounded to the nearest."""
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # written so that NaN is refused too
        raise ImageError(
            f"has grey values from {lowest:.4g} to {highest:.4g}; 0 to {white} expected"
        )
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


class _Guard:
    """Pillow's process-wide settings for decoding, shared by all threads that decode.

    The first thread to enter changes the settings and the last to leave restores them.
    `warnings.catch_warnings` alone is not thread-safe: one thread's exit would restore the
    filters that another thread has just set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._libtiff = ErrorHandlers()

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._size_limit = Image.MAX_IMAGE_PIXELS
            self._load_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
            self._libtiff.install()
            self._filters = warnings.catch_warnings()
            self._filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # `decode_image` checks the size from the header and has its own error message.
            Image.MAX_IMAGE_PIXELS = None
            # Some programs enable this; Pillow would then pad a truncated image with grey.
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            Image.MAX_IMAGE_PIXELS = self._size_limit
            ImageFile.LOAD_TRUNCATED_IMAGES = self._load_truncated
            self._filters.__exit__(None, None, None)
            self._libtiff.restore()


_guard = _Guard()


@contextmanager
def guarded_pillow() -> Iterator[None]:
    """Disable Pillow's warnings, its size limit, its padding of truncated images, and libtiff's
    own lines on stderr.

    Thread-safe. Warnings of other modules are unaffected, and the previous settings are restored
    at the end.
    """
    _guard.enter()
    try:
        yield
    finally:
        _guard.leave()
