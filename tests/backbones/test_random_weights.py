import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.backbones.weights import random_seed
from declip_pipeline.errors import InputError


@pytest.mark.parametrize(
    ("weights", "seed"), [("random:0", 0), ("random:41", 41), ("random.pt", None), (None, None)]
)
def test_only_the_explicit_name_is_random(weights: str | None, seed: int | None) -> None:
    assert random_seed(weights) == seed


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random:1.5"])
def test_a_seed_is_a_whole_number(weights: str) -> None:
    with pytest.raises(InputError, match="expected random:SEED with a whole number, random:0"):
        random_seed(weights)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["timm:test_vit", "efficientnet-lite0", "ViT-S-32-alt"])
def test_the_seed_alone_decides_the_weights(arch: str) -> None:
    torch.manual_seed(5)
    first = open_backbone(arch, weights=["random:1"])
    torch.manual_seed(6)
    again = open_backbone(arch, weights=["random:1"])
    other = open_backbone(arch, weights=["random:2"])
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.name.endswith("[random:1]")
    assert other.name.endswith("[random:2]")


def test_opening_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_backbone("timm:test_vit", weights=["random:1"])
    assert torch.equal(torch.rand(3), expected)
