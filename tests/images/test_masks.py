import io

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import decode_mask
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
