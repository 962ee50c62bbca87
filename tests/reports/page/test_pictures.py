import base64
import io

import numpy as np
from PIL import Image

from declip_pipeline.reports.page.pictures import OUTLINE, TRUTH, TRUTH_EDGE, pictures_of
from declip_pipeline.reports.shown_images import ShownImage


def opened(uri, kind):
    head, _, content = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture.convert("RGBA"))


def shown(heat=None):
    image = np.full((128, 128, 3), (200, 100, 50), np.uint8)
    truth = np.zeros((128, 128), bool)
    truth[20:60, 20:60] = True
    heat = np.zeros((128, 128), np.float32) if heat is None else heat
    return ShownImage(image, truth, heat)


def test_the_image_is_the_image():
    picture = opened(pictures_of(shown()).image, "webp")
    assert np.abs(picture[..., :3].astype(int) - (200, 100, 50)).max() <= 4


def test_the_truth_covers_what_is_fake_and_nothing_else():
    picture = opened(pictures_of(shown()).truth, "png")
    covered = picture[..., 3] > 0
    assert np.array_equal(covered, shown().truth)
    assert tuple(picture[40, 40]) == TRUTH and tuple(picture[20, 40]) == TRUTH_EDGE


def test_the_map_is_outlined_where_it_is_called_fake():
    heat = np.zeros((128, 128), np.float32)
    heat[64:, :] = 0.51
    heat[32:64, :] = 0.5
    picture = opened(pictures_of(shown(heat)).heat, "png")
    outlined = (picture == OUTLINE).all(axis=2)
    assert outlined[64].all() and outlined.sum() == 128
    assert (picture[:32, :, 3] == 0).all()


def test_the_hotter_the_less_shines_through():
    heat = np.tile(np.linspace(0, 0.5, 128, dtype=np.float32), (128, 1))
    alphas = opened(pictures_of(shown(heat)).heat, "png")[0, :, 3].astype(int)
    assert (np.diff(alphas) >= 0).all() and alphas[0] == 0 and 100 < alphas[-1] < 120


def test_a_noisy_image_takes_less_than_its_share_of_a_report():
    """15 MB for 200 images is 75 kB for each."""
    rng = np.random.default_rng(0)
    noisy = shown(rng.random((128, 128), dtype=np.float32))
    noisy = noisy._replace(image=rng.integers(0, 256, (128, 128, 3), np.uint8))
    found = pictures_of(noisy)
    assert len(found.image) + len(found.truth) + len(found.heat) < 75_000
