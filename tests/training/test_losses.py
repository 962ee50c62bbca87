"""Losses of maps: against their definitions, torchvision's, and where they are least."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from declip_pipeline.metrics.localization import intersection_over_union
from declip_pipeline.training.losses import dice_loss, focal_loss, lovasz_loss, map_loss


@pytest.fixture
def maps():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 16, 16, generator=draw)
    return logits, torch.rand(3, 16, 16, generator=draw)


def test_a_sum_of_losses_is_their_sum(maps):
    logits, targets = maps
    entropy = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(map_loss(logits, targets, ["bce"]), entropy)
    torch.testing.assert_close(
        map_loss(logits, targets, ["bce", "dice"]), entropy + dice_loss(logits, targets)
    )


def test_the_focal_loss_is_torchvisions(maps):
    logits, targets = maps
    binary = (targets > 0.5).float()
    torch.testing.assert_close(
        focal_loss(logits, binary), sigmoid_focal_loss(logits, binary, alpha=-1, reduction="mean")
    )
    torch.testing.assert_close(
        focal_loss(logits, targets),
        sigmoid_focal_loss(logits, targets, alpha=-1, reduction="mean"),
    )


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_a_positive_weight_counts_fake_pixels_so_often(maps, name):
    logits, binary = maps[0], (maps[1] > 0.5).float()
    parts = [
        map_loss(logits[binary == label][None, None], binary[binary == label][None, None], [name])
        * (binary == label).sum()
        for label in (0, 1)
    ]
    expected = (parts[0] + 3 * parts[1]) / binary.numel()
    torch.testing.assert_close(map_loss(logits, binary, [name], 3.0), expected)


def test_dice_of_a_perfect_map_and_of_an_empty_one_of_an_empty_mask_is_nothing():
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:5, 2:5] = 1
    assert dice_loss(100 * (2 * mask - 1), mask) == 0
    assert dice_loss(torch.full((1, 8, 8), -100.0), torch.zeros(1, 8, 8)) == 0
    wrong = dice_loss(100 * (1 - 2 * mask), mask)
    torch.testing.assert_close(wrong, torch.tensor(1 - 1 / 65))


def test_the_lovasz_hinge_of_hard_maps_is_the_jaccard_distance():
    """With logits of 1 and -1, errors are 0 or 2, so that the hinge is twice the distance."""
    draw = torch.Generator().manual_seed(1)
    truth = torch.rand(4, 8, 8, generator=draw) > 0.6
    called = torch.rand(4, 8, 8, generator=draw) > 0.5
    distance = 1 - intersection_over_union(called.float(), truth).mean() / 100
    found = lovasz_loss(2 * called.float() - 1, truth.float())
    torch.testing.assert_close(found.double(), 2 * distance)


def test_the_lovasz_hinge_takes_soft_masks_as_binary(maps):
    logits, targets = maps
    assert lovasz_loss(logits, targets) == lovasz_loss(logits, (targets > 0.5).float())


def test_the_lovasz_hinge_of_an_empty_mask_is_that_of_the_worst_pixel():
    logits = torch.tensor([[[-2.0, 0.5], [-0.5, -3.0]]])
    assert lovasz_loss(logits, torch.zeros(1, 2, 2)) == pytest.approx(1.5)
