import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter

from declip_pipeline.metrics.certain_regions import certain_regions, widen

SHAPES = [(1, 1), (3, 5), (1, 40), (7, 7), (14, 16), (40, 61)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_equal_to_square_filters(shape, share):
    masks = np.random.default_rng(0).random((3, *shape)) < share
    masks[1, : shape[0] // 2] = True
    fake, real = certain_regions(torch.from_numpy(masks))
    for i, mask in enumerate(masks):
        assert np.array_equal(fake[i], minimum_filter(mask, 15))
        assert np.array_equal(real[i], ~maximum_filter(mask, 11))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 15, 17])
def test_widen_for_every_odd_size(size):
    mask = np.zeros((25, 31), dtype=bool)
    mask[[0, 12, 20], [0, 15, 30]] = True
    ours = widen(torch.from_numpy(mask)[None], size)[0]
    assert np.array_equal(ours, maximum_filter(mask, size))


def test_nothing_is_both_and_the_inputs_stay():
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    before = masks.clone()
    fake, real = certain_regions(masks)
    assert torch.equal(masks, before)
    assert fake.sum() == 6 * 6
    assert (~real).sum() == 30 * 30
    assert not (fake & real).any()
