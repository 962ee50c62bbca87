import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.metrics.intersection_over_union import intersection_over_union


def test_counts_by_hand():
    maps = torch.tensor([[[0.9, 0.9, 0.1, 0.5]], [[0.0, 0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[True, False, True, True]], [[False] * 4]])
    # One of four in the union; 0.5 is not greater than the threshold; two empty sets agree.
    assert intersection_over_union(maps, masks).tolist() == pytest.approx([25, 100])


def test_logits_and_probabilities_agree():
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = logits.roll(3, 2) > 0.2
    of_logits = intersection_over_union(logits, masks, threshold=0.0)
    assert torch.equal(of_logits, intersection_over_union(logits.sigmoid(), masks))
    assert of_logits.dtype == torch.float64


def test_soft_masks_are_fake_above_a_half():
    soft = torch.tensor([[[0.2, 0.5, 0.500001, 1.0]]])
    maps = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert intersection_over_union(maps, soft).item() == 100


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"shape \(1, 4, 4\) and masks \(2, 4, 4\)"):
        intersection_over_union(torch.zeros(1, 4, 4), torch.zeros(2, 4, 4))
