import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from declip_pipeline.errors import ImageError
from declip_pipeline.images.masks import Mask, decode_mask, read_mask
from declip_pipeline.images.resize import resize_mask


def png(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def levels(*values: int) -> np.ndarray:
    return np.tile(np.array(values, np.uint8), (16, 16 // len(values)))


def test_threshold_lies_at_128_and_polarity_turns_it() -> None:
    content = png(levels(0, 127, 128, 255))
    white = decode_mask(content, fake_is_white=True)
    assert white.dtype == bool
    assert white.shape == (16, 16)
    assert white[0, :4].tolist() == [False, False, True, True]
    np.testing.assert_array_equal(decode_mask(content, fake_is_white=False), ~white)


def test_colour_16_bit_and_1_bit_masks_read_as_the_grey_one() -> None:
    grey = levels(0, 255)
    expected = decode_mask(png(grey), fake_is_white=True)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for same in (rgb, grey.astype(np.uint16) * 257, grey > 0):
        np.testing.assert_array_equal(decode_mask(png(same), fake_is_white=True), expected)


def test_every_grey_level_survives_the_way_through_rgb() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_mask(png(grey), fake_is_white=True), grey >= 128)


def part(low: object, high: object, dtype: type = np.uint8) -> np.ndarray:
    """An image of 32x64 pixels, its first eighth of the second value."""
    array = np.full((32, 64, *np.shape(low)), low, dtype)
    array[:4] = high
    return array


def read(array: np.ndarray, form: str = "PNG", **options: object) -> Mask:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return read_mask(buffer.getvalue(), fake_is_white=True)


def palette(*colours: tuple[int, int, int]) -> bytes:
    image = Image.fromarray(part(0, 1), "P")
    image.putpalette([channel for colour in colours for channel in colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def alpha(colour: int, low: int, high: int) -> np.ndarray:
    return np.dstack([np.full((32, 64, 3), colour, np.uint8), part(low, high)])


@pytest.mark.parametrize(
    ("array", "form", "values"),
    [
        (part(0, 255), "PNG", ""),
        (part(0, 65535, np.uint16), "PNG", ""),
        (part(0, 1), "PNG", "the values 0 and 1"),
        (part(0, 38), "PNG", "the values 0 and 38"),
        (part(1, 2), "PNG", "the values 1 and 2"),
        (part(0, 255, np.uint16), "PNG", ""),
        (part(0, 1, np.uint16), "PNG", "the values 0 and 1"),
        (part(0, 1000, np.uint16), "PNG", "the values 0 and 1000"),
        (part(0, 1, np.float32), "TIFF", ""),
        (part(0, 255, np.float32), "TIFF", ""),
        (part(0, 100000, np.int32), "TIFF", "the values 0 and 100000"),
        (part((0, 0, 0), (128, 0, 0)), "PNG", "the colours 0,0,0 (87.5%), 128,0,0 (12.5%)"),
        (alpha(0, 0, 255), "PNG", ""),
        (alpha(255, 0, 255), "PNG", ""),
        (alpha(7, 0, 1), "PNG", "the values 0 and 1"),
        (part(0, 255), "JPEG", ""),
    ],
)
def test_two_values_are_read_at_their_own_middle(array: np.ndarray, form: str, values: str) -> None:
    mask = read(array, form)
    assert mask.is_clear
    assert mask.values == values
    assert mask.fake[:4].all() and not mask.fake[4:].any()


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (palette((0, 0, 0), (128, 0, 0)), "the colours 0,0,0 (87.5%), 128,0,0 (12.5%)"),
        (palette((9, 9, 9), (9, 9, 9)), "the values 0 and 1"),
        (palette((0, 0, 0), (255, 255, 255)), ""),
    ],
)
def test_class_numbers_of_a_palette(content: bytes, values: str) -> None:
    mask = read_mask(content, fake_is_white=True)
    assert (mask.values, mask.is_clear) == (values, True)
    assert mask.fake[:4].all() and not mask.fake[4:].any()


@pytest.mark.parametrize(
    ("value", "dtype", "is_fake"),
    [(0, np.uint8, 0), (255, np.uint8, 1), (1, np.uint8, 1), (255, np.uint16, 1), (1, bool, 1)],
)
def test_one_value_is_black_or_white(value: int, dtype: type, is_fake: int) -> None:
    mask = read(part(value, value, dtype))
    assert mask.is_clear
    assert mask.fake.mean() == is_fake


def classes(*values: int) -> np.ndarray:
    array = np.zeros((32, 64), np.uint8)
    for number, value in enumerate(values):
        array[4 * number : 4 * number + 4] = value
    return array


@pytest.mark.parametrize(
    ("array", "form", "values"),
    [
        (classes(128, 255), "PNG", "areas of middle greys, most of them 128 (12.5% of the pixels)"),
        (classes(1, 2), "PNG", "grey values from 0 to 2 alone"),
        (
            classes(200, 100, 255),
            "PNG",
            "areas of middle greys, most of them 100 (25.0% of the pixels)",
        ),
        (part(50, 50), "PNG", "one value, 50"),
        (
            part((200, 0, 0), (0, 255, 0)),
            "PNG",
            "the colours 200,0,0 (87.5%), 0,255,0 (12.5%)",
        ),
        (
            np.vstack([part((255, 0, 0), (0, 255, 0)), part((200, 0, 0), (0, 200, 0))]),
            "PNG",
            "the colours 255,0,0 (43.8%), 200,0,0 (43.8%), 0,255,0 (6.2%), 0,200,0 (6.2%)",
        ),
    ],
)
def test_values_that_do_not_say_what_is_fake_are_told(
    array: np.ndarray, form: str, values: str
) -> None:
    mask = read(array, form)
    assert (mask.values, mask.is_clear) == (values, False)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("blur", [0, 1, 3, 6, 10])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_soft_edges_and_compression_are_no_values_of_their_own(
    form: str, blur: int, quality: int
) -> None:
    grey = np.zeros((256, 256), np.uint8)
    grey[60:160, 80:200] = 255
    soft = Image.fromarray(grey).filter(ImageFilter.GaussianBlur(blur)).convert("RGB")
    buffer = io.BytesIO()
    soft.save(buffer, form, quality=quality)
    mask = read_mask(buffer.getvalue(), fake_is_white=True)
    assert (mask.values, mask.is_clear) == ("", True)
    assert abs(mask.fake.mean() - (grey > 0).mean()) < 0.02


def test_an_almost_black_jpeg_is_black() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8)
    mask = read(noise, "JPEG", quality=95)
    assert (mask.values, mask.is_clear, mask.fake.any()) == ("", True, False)


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.zeros((16, 32), np.uint8)
    grey[:, :10] = 255
    mask = decode_mask(png(grey, exif=exif), fake_is_white=True)
    assert mask.shape == (32, 16)
    assert mask[:10].all() and not mask[10:].any()


def test_an_unreadable_mask_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="zero bytes"):
        decode_mask(b"", fake_is_white=True)


def test_resize_keeps_the_share_of_fake_pixels() -> None:
    mask = np.zeros((512, 512), bool)
    mask[:, :257] = True  # half of target column 128 is fake
    target = resize_mask(mask)
    assert target.dtype == np.uint8
    assert target.shape == (256, 256)
    assert target[:, :127].min() == 255
    assert target[:, 130:].max() == 0
    assert 0 < target[0, 128] < 255
    assert abs(target.mean() / 255 - mask.mean()) < 1e-3


def test_resize_takes_height_before_width_and_enlarges() -> None:
    mask = np.zeros((20, 40), bool)
    mask[10:] = True
    target = resize_mask(mask, 60, 80)
    assert target.shape == (60, 80)
    assert target[:28].max() == 0
    assert target[32:].min() == 255


def test_resize_at_the_same_size_changes_nothing() -> None:
    mask = np.random.default_rng(0).random((256, 256)) > 0.5
    np.testing.assert_array_equal(resize_mask(mask), mask * 255)
