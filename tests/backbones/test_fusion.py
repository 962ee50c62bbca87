from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from declip_pipeline.backbones.fusion import as_grid
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_VIT = str(GOLDEN / "tiny_vit_openai.pt")
TINY_RN = str(GOLDEN / "tiny_rn_openai.pt")


def test_tokens_become_a_grid_in_row_order_without_their_prefix() -> None:
    shape = FeatureShape(channels=2, height=2, width=3, prefix_tokens=1)
    tokens = torch.arange(14.0).view(1, 7, 2)
    grid = as_grid(tokens, shape)
    assert grid.tolist() == [[[[2, 4, 6], [8, 10, 12]], [[3, 5, 7], [9, 11, 13]]]]


@pytest.mark.slow
def test_names_shapes_and_parts() -> None:
    fused = open_backbone(
        "CLIP:from-file, CLIP:from-file", weights=[TINY_VIT, TINY_RN], device="cpu"
    )
    assert fused.name == "CLIP:from-file,CLIP:from-file"
    assert list(fused.layers) == ["layer0", "layer1", "layer2", "layer3"]
    assert set(fused.layers.values()) == {FeatureShape(128 + 128, 16, 16)}


@pytest.mark.slow
def test_three_parts_on_the_grids_of_a_network_of_stages() -> None:
    weights = [TINY_RN, TINY_RN, "random:0"]
    fused = open_backbone(
        "CLIP:from-file,CLIP:from-file,efficientnet-lite0", weights=weights, device="cpu"
    )
    images = torch.rand(1, 3, 224, 224)
    first, second, third = (
        open_backbone(arch, weights=[given], device="cpu")
        for arch, given in zip(
            ["CLIP:from-file"] * 2 + ["efficientnet-lite0"], weights, strict=True
        )
    )
    found = fused.features(images, ["layer2"])["layer2"]
    parts = [first.features(images, ["layer2"])["layer2"]] + [
        F.interpolate(part.features(images, ["layer3"])["layer3"], (28, 28), mode="bilinear")
        for part in (second, third)
    ]
    assert fused.layers["layer2"] == FeatureShape(64 + 128 + 40, 28, 28)
    assert torch.equal(found, torch.cat(parts, dim=1))


@pytest.mark.slow
def test_hash_depends_on_every_part_and_their_order() -> None:
    other = "efficientnet-lite0"
    hashes = {
        open_backbone(
            f"CLIP:from-file,{other}", weights=[TINY_RN, "random:0"], device="cpu"
        ).weights_sha256,
        open_backbone(
            f"CLIP:from-file,{other}", weights=[TINY_RN, "random:1"], device="cpu"
        ).weights_sha256,
        open_backbone(
            f"{other},CLIP:from-file", weights=["random:0", TINY_RN], device="cpu"
        ).weights_sha256,
    }
    assert len(hashes) == 3


@pytest.mark.slow
def test_a_part_without_the_grid_is_refused() -> None:
    message = (
        r"cannot stand behind CLIP:from-file in a fusion: its layer3 must be a grid; put the ViT"
    )
    with pytest.raises(InputError, match=message):
        open_backbone("CLIP:from-file,CLIP:from-file", weights=[TINY_RN, TINY_VIT], device="cpu")


@pytest.mark.slow
def test_parts_that_see_other_pictures_are_refused() -> None:
    message = (
        r"timm:test_resnet\[random:0\] sees 160x160 images, "
        r"CLIP:from-file 224x224; the parts of a fusion must see the same"
    )
    with pytest.raises(InputError, match=message):
        open_backbone(
            "CLIP:from-file,timm:test_resnet", weights=[TINY_VIT, "random:0"], device="cpu"
        )
