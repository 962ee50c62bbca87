import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import decode_image, guarded_pillow


def warn_as(module: str) -> None:
    warnings.warn_explicit("something odd", UserWarning, "somewhere.py", 1, module=module)


def test_silences_pillow_and_nothing_else() -> None:
    with guarded_pillow():
        warn_as("PIL.PngImagePlugin")
        with pytest.raises(UserWarning, match="something odd"):
            warn_as("PILLAGE")
    with pytest.raises(UserWarning, match="something odd"):
        warn_as("PIL.PngImagePlugin")


def test_restores_the_settings_when_the_last_of_overlapping_threads_leaves() -> None:
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    second_inside, first_left = threading.Event(), threading.Event()
    seen: list[object] = []

    def second() -> None:
        with guarded_pillow():
            second_inside.set()
            first_left.wait(10)
            warn_as("PIL.Image")  # would raise, had the first taken the filter with it
            seen.append(Image.MAX_IMAGE_PIXELS)

    thread = threading.Thread(target=second)
    with guarded_pillow():
        thread.start()
        second_inside.wait(10)
    first_left.set()
    thread.join(10)
    assert seen == [None]
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


def test_libtiffs_own_lines_are_silenced_inside_alone(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw")
    content = bytearray(buffer.getvalue())
    content[200:260] = b"\xff" * 60
    with pytest.raises(ImageError, match=r"is truncated or damaged \("):
        decode_image(bytes(content))
    assert capfd.readouterr().err == ""
    with Image.open(io.BytesIO(bytes(content))) as image, suppress(OSError):
        image.load()
    assert "not yet in table" in capfd.readouterr().err


def test_restores_the_settings_after_an_error() -> None:
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with pytest.raises(KeyError), guarded_pillow():
        raise KeyError
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


def test_many_threads_decode_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(decode_image, [buffer.getvalue()] * 200):
            np.testing.assert_array_equal(image, pixels)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters
