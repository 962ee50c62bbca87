"""Enlarging by two products gives what interpolation gives; its loss, what the large map gives."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from declip_pipeline.decoders.decoder import bicubic_matrix, enlarge, probability_maps
from declip_pipeline.training.learner import enlarged_cross_entropy


@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, 256), (7, 7, 256), (112, 56, 64)])
def test_it_is_bicubic_interpolation(height, width, size):
    torch.manual_seed(0)
    maps = torch.randn(3, height, width)
    expected = F.interpolate(maps[:, None], (size, size), mode="bicubic")[:, 0]
    torch.testing.assert_close(enlarge(maps, size), expected, rtol=0, atol=2e-5)


def test_autocast_leaves_it_exact():
    maps = torch.randn(2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert enlarge(maps.bfloat16(), 256).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        under = enlarge(maps, 256)
    assert torch.equal(under, enlarge(maps, 256))


def test_the_matrix_is_computed_once_and_maps_are_not_kept():
    cpu = torch.device("cpu")
    assert bicubic_matrix(16, 256, cpu) is bicubic_matrix(16, 256, cpu)
    logits = torch.randn(2, 16, 16)
    maps = probability_maps(logits, 32, 32)
    left = [weakref.ref(logits), weakref.ref(maps)]
    del logits, maps
    assert [one() for one in left] == [None, None]


@pytest.mark.parametrize("count", [1, 8, 11])
def test_the_loss_and_its_gradient_are_those_of_the_large_map(count):
    torch.manual_seed(0)
    # Far beyond where exp overflows in one direction, and where sigmoid is 0 or 1.
    logits = (torch.randn(count, 16, 16) * 60).requires_grad_()
    targets = torch.rand(count, 256, 256).round(decimals=1)
    large = F.interpolate(logits[:, None], (256, 256), mode="bicubic")[:, 0]
    expected = F.binary_cross_entropy_with_logits(large, targets)
    (3 * expected).backward()
    gradient, logits.grad = logits.grad, None
    loss = enlarged_cross_entropy(logits, targets)
    (3 * loss).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-4, atol=1e-8)
