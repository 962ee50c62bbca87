"""Files that are damaged, or hold much beside the pixels: the right pixels, or one line."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import decode_image, image_size
from declip_pipeline.images.masks import read_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
MEGABYTES = 3_000_000


def saved(form: str = "PNG", image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def with_chunk(new: bytes, *, before: bytes = b"IDAT", **options: object) -> bytes:
    content = saved(**options)
    place = content.index(before) - 4
    return content[:place] + new + content[place:]


ZEROS = zlib.compress(bytes(MEGABYTES))


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(chunk(b"zTXt", b"workflow\0\0" + ZEROS)),
        with_chunk(chunk(b"zTXt", b"workflow\0\0" + ZEROS), before=b"IEND"),
        with_chunk(chunk(b"iTXt", b"workflow\0\1\0\0\0" + ZEROS)),
        with_chunk(chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"x" * MEGABYTES)),
        with_chunk(chunk(b"tEXt", b"workflow\0" + b"x" * MEGABYTES)),
        with_chunk(chunk(b"tEXt", b"workflow\0" + b"x" * 900_000) * 100),
        with_chunk(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(900_000))) * 100),
        with_chunk(chunk(b"zTXt", b"workflow\0\0no zlib")),
        with_chunk(chunk(b"iCCP", b"profile\0\0" + ZEROS)),
        with_chunk(chunk(b"iCCP", b"")),
        with_chunk(chunk(b"pHYs", b"short")),
        with_chunk(chunk(b"tEXt", b"prompt\0a cat", crc=1)),
        with_chunk(chunk(b"eXIf", b"II*\0", crc=1)),
        with_chunk(chunk(b"pHYs", b"123456789", crc=1)),
        saved(icc_profile=bytes(MEGABYTES)),
    ],
)
def test_pixels_beside_large_or_damaged_side_chunks_are_whole(content: bytes) -> None:
    assert image_size(content) == (40, 60)
    np.testing.assert_array_equal(decode_image(content), PIXELS)


def test_a_damaged_side_chunk_leaves_the_others() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    content = with_chunk(chunk(b"tEXt", b"prompt\0a cat", crc=1), pnginfo=info)
    assert image_size(content) == (60, 40)
    np.testing.assert_array_equal(decode_image(content), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE"])
def test_a_damaged_chunk_of_pixels_is_damage(kind: bytes) -> None:
    content = bytearray(saved(image=Image.fromarray(PIXELS).quantize(64)))
    content[content.index(kind) + 8] ^= 1
    with pytest.raises(ImageError):
        decode_image(bytes(content))


def test_every_truncation_of_a_png_is_damage() -> None:
    content = with_chunk(chunk(b"tEXt", b"prompt\0a cat", crc=1))
    for end in range(1, content.index(b"IEND") - 8, 97):
        with pytest.raises(ImageError):
            decode_image(content[:end])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_what_libtiff_calls_damaged_is_damage_and_nothing_goes_to_stderr(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = saved("TIFF", compression=compression)
    np.testing.assert_array_equal(decode_image(content), PIXELS)
    for place in range(300, len(content) - 400, 251):
        damaged = bytearray(content)
        damaged[place : place + 8] = b"\xff" * 8
        try:
            found = decode_image(bytes(damaged))
        except ImageError as error:
            assert str(error).isprintable()
            continue
        # LZW has no check sum.
        assert compression == "tiff_lzw" or np.array_equal(found, PIXELS), place
    assert capfd.readouterr().err == ""


def forms() -> dict[str, bytes]:
    image = Image.fromarray(PIXELS)
    frames = {"save_all": True, "append_images": [image.rotate(90)] * 2}
    grey16 = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return {
        "png": saved(),
        "png of 16 bits": saved(image=grey16),
        "png of a palette": saved(image=image.quantize(64)),
        "apng": saved(**frames),
        "jpeg": saved("JPEG", icc_profile=bytes(100_000)),
        "cmyk": saved("JPEG", image.convert("CMYK")),
        "gif": saved("GIF", **frames),
        "webp": saved("WEBP", **frames),
        "avif": saved("AVIF"),
        "bmp": saved("BMP"),
        "ppm": saved("PPM"),
        "jpeg 2000": saved("JPEG2000"),
        "tiff": saved("TIFF", **frames),
        "tiff of floats": saved("TIFF", Image.fromarray(PIXELS[..., 0] / np.float32(255))),
    }


@pytest.mark.parametrize("form", forms())
def test_any_damage_is_an_array_or_one_line(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = forms()[form]
    rng = np.random.default_rng(0)
    for number in range(24):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: rng.integers(1, len(damaged))]
        else:
            for place in rng.integers(0, len(damaged), 1 + number // 2):
                damaged[place] = rng.integers(256)
        for read in (image_size, decode_image, lambda c: read_mask(c, fake_is_white=True)):
            try:
                read(bytes(damaged))
            except ImageError as error:
                assert str(error).isprintable()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("form", forms())
def test_the_largest_size_holds_for_every_format(form: str) -> None:
    with pytest.raises(ImageError, match="at most 0.002 megapixels are read"):
        decode_image(forms()[form], max_megapixels=0.002)


def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(ImageError, match="is no regular file; an image was expected"):
            decode_image(path)
    with pytest.raises(ImageError, match="cannot be opened: No such file or directory"):
        decode_image(tmp_path / "nowhere.png")
