import io

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.images.png import GreyPng


def written(array, *cuts):
    png = GreyPng(*array.shape, array.dtype.type)
    for top, bottom in zip((0, *cuts), (*cuts, len(array)), strict=True):
        png.add(array[top:bottom])
    return png.content()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (300, 517)])
def test_pillow_reads_what_is_written(dtype, shape):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    for cuts in ((), (shape[0] // 2,)):
        image = Image.open(io.BytesIO(written(array, *cuts)))
        assert image.mode == ("L" if dtype is np.uint8 else "I;16")
        np.testing.assert_array_equal(np.asarray(image), array)


def test_masks_and_smooth_maps_are_small():
    mask = np.zeros((1000, 1000), np.uint8)
    mask[200:700, 300:800] = 255
    assert len(written(mask)) < 6_000
    slope = np.linspace(0, 65535, 1000)
    smooth = ((slope + slope[:, None]) / 2).astype(np.uint16)
    assert len(written(smooth)) < 0.3 * smooth.nbytes
