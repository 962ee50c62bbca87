import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import decode_image, image_size

ORIENTED = [np.asarray, np.fliplr, lambda a: np.rot90(a, 2), np.flipud]
ORIENTED += [lambda a: np.swapaxes(a, 0, 1), lambda a: np.rot90(a, -1)]
ORIENTED += [lambda a: np.rot90(np.swapaxes(a, 0, 1), 2), lambda a: np.rot90(a, 1)]
"""What EXIF orientations 1 to 8 ask for, in NumPy's words."""


def photograph(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def reason(source: Path | bytes, **options: float) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size in its header and holds no pixels."""
    data = b"\x89PNG\r\n\x1a\n"
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, body in [(b"IHDR", ihdr), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def test_returns_writable_contiguous_rgb_from_a_path_and_from_bytes(tmp_path: Path) -> None:
    pixels = photograph()
    content = encoded(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (path, content):
        image = decode_image(source)
        assert image.dtype == np.uint8
        assert image.flags.writeable and image.flags.c_contiguous
        np.testing.assert_array_equal(image, pixels)
        assert image_size(source) == (24, 40)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_reads_lossless_formats_exactly(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(Image.fromarray(photograph()), file_format, **options)
    np.testing.assert_array_equal(decode_image(content), photograph())


def test_grey_and_grey_with_alpha_are_repeated_into_rgb() -> None:
    grey = photograph()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(grey))), expected)
    with_alpha = np.stack([grey, photograph()[..., 1]], axis=2)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(with_alpha))), expected)


def test_alpha_is_dropped_and_the_stored_colours_stay() -> None:
    alpha = np.zeros((24, 40, 1), np.uint8)
    content = encoded(Image.fromarray(np.concatenate([photograph(), alpha], axis=2)))
    np.testing.assert_array_equal(decode_image(content), photograph())


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255])])
def test_palette_gives_its_colours_whatever_the_transparency(
    transparency: int | bytes | None,
) -> None:
    indexes = np.random.default_rng(1).integers(0, 4, (24, 40), dtype=np.uint8)
    palette = np.array([[9, 8, 7], [250, 0, 1], [0, 200, 30], [77, 77, 200]], np.uint8)
    image = Image.fromarray(indexes).convert("P")
    image.putpalette(palette.tobytes())
    image.putdata(indexes.ravel().tolist())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode_image(encoded(image, **options)), palette[indexes])


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (32, 32), (200, 30, 60)).convert("CMYK")
    image = decode_image(encoded(red, "JPEG", quality=95))
    assert image.shape == (32, 32, 3)
    assert np.abs(image.astype(int) - [200, 30, 60]).max() <= 6


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_the_nearest(file_format: str) -> None:
    values = np.tile(np.array([0, 128, 129, 257, 32768, 65534, 65535, 1000], np.uint16), (16, 2))
    image = decode_image(encoded(Image.fromarray(values), file_format))
    assert image[0, :8, 1].tolist() == [0, 0, 1, 1, 128, 255, 255, 4]


def test_32_bit_grey_is_scaled_or_refused() -> None:
    values = np.full((16, 16), 65535, np.int32)
    assert decode_image(encoded(Image.fromarray(values), "TIFF")).min() == 255
    values[3, 4] = 70000
    message = reason(encoded(Image.fromarray(values), "TIFF"))
    assert message == "has grey values from 6.554e+04 to 7e+04; 0 to 65535 expected"


def test_1_bit_becomes_black_and_white() -> None:
    bits = photograph()[..., 0] > 127
    image = decode_image(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(image[..., 2], np.where(bits, 255, 0))


@pytest.mark.parametrize(("low", "shown"), [(-0.5, "-0.5 to 1"), (float("nan"), "nan to nan")])
def test_floating_point_is_scaled_within_0_and_1_and_refused_beyond(low: float, shown: str) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    image = decode_image(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(image[..., 0].ravel(), np.arange(256))
    values[0, 0] = low
    message = reason(encoded(Image.fromarray(values), "TIFF"))
    assert message == f"has grey values from {shown}; 0 to 1 expected"


def test_colours_multiplied_by_alpha_are_restored() -> None:
    pixels = np.full((16, 16, 4), (50, 100, 20, 128), np.uint8)
    content = bytearray(encoded(Image.fromarray(pixels), "TIFF"))
    unassociated = struct.pack("<HHIHH", 338, 3, 1, 2, 0)  # ExtraSamples, one SHORT, 2
    assert content.count(unassociated) == 1
    content = content.replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    assert decode_image(bytes(content))[0, 0].tolist() == [99, 199, 39]


def test_lab_is_converted() -> None:
    image = decode_image(encoded(Image.new("LAB", (16, 16), (128, 128, 128)), "TIFF"))
    assert image.shape == (16, 16, 3)
    assert np.ptp(image.astype(int), axis=2).max() <= 2  # a=b=0 is grey


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_pixels_and_size(file_format: str, orientation: int) -> None:
    pixels = photograph(20, 36)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    plain = decode_image(encoded(Image.fromarray(pixels), file_format, **options))
    content = encoded(Image.fromarray(pixels), file_format, exif=exif, **options)
    upright = decode_image(content)
    np.testing.assert_array_equal(upright, ORIENTED[orientation - 1](plain))
    assert image_size(content) == upright.shape[:2]


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_does_not_hinder(exif: bytes) -> None:
    content = encoded(Image.fromarray(photograph()), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(content), photograph())
    assert image_size(content) == (24, 40)


def test_an_unknown_orientation_counts_as_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    content = encoded(Image.fromarray(photograph()), exif=exif)
    np.testing.assert_array_equal(decode_image(content), photograph())


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(file_format: str) -> None:
    frames = [Image.new("RGB", (32, 20), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert np.unique(decode_image(content).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert reason(path) == reason(b"") == "empty file, zero bytes; an image was expected"
    with pytest.raises(ImageError, match="zero bytes"):
        image_size(path)


def test_a_text_file_named_png(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not an image at all, only words\n" * 20)
    message = reason(path)
    assert message.startswith("is not an image PIL can read; one of PNG, JPEG, WEBP, BMP, TIFF")
    assert "notes" not in message
    with pytest.raises(ImageError, match="is not an image PIL can read"):
        image_size(path)


def test_postscript_is_not_run() -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    assert reason(content).startswith("is not an image PIL can read")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(file_format: str, share: float) -> None:
    content = encoded(Image.fromarray(photograph(200, 200)), file_format)
    message = reason(content[: int(len(content) * share)])
    assert message.startswith(("is truncated or damaged (", "is not an image PIL can read"))


def test_a_truncated_jpeg_stays_refused_where_padding_was_switched_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(Image.fromarray(photograph(200, 200)), "JPEG")
    message = reason(content[:-2000])
    assert message.startswith("is truncated or damaged (image file is truncated")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 300), (300, 15)])
def test_a_tiny_picture(width: int, height: int) -> None:
    content = encoded(Image.new("RGB", (width, height)))
    assert reason(content) == f"{width}x{height} pixels; at least 16x16 expected"
    assert image_size(content) == (height, width)


def test_a_huge_picture_is_refused_from_its_header() -> None:
    expected = "20000x20000 pixels = 400 megapixels; at most 178 megapixels are read, shrink it"
    assert reason(png_header(20000, 20000)) == expected
    assert image_size(png_header(20000, 20000)) == (20000, 20000)


def test_the_limit_of_megapixels_is_an_argument() -> None:
    content = encoded(Image.new("RGB", (200, 100)))
    assert decode_image(content, max_megapixels=0.02).shape == (100, 200, 3)
    assert "= 0.02 megapixels; at most 0.019 megapixels" in reason(content, max_megapixels=0.019)


def test_pillows_own_limit_neither_warns_nor_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (200, 100)))
    for limit in (15_000, 5_000):  # Pillow would warn at the first, refuse at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert decode_image(content).shape == (100, 200, 3)
        assert caught == []
        assert limit == Image.MAX_IMAGE_PIXELS


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert reason(tmp_path / "no.png") == "cannot be opened: No such file or directory"
    assert reason(tmp_path) == "is no regular file; an image was expected"


def test_the_size_comes_without_decoding() -> None:
    content = encoded(Image.fromarray(photograph(200, 300)), "JPEG")
    assert image_size(content[: len(content) // 2]) == (200, 300)
