"""Parity with the published implementation, to 1e-5 absolute (`golden/README.md` of the project).

The expected numbers were computed by the authors' code from the two weights files and images.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {"vit": str(GOLDEN / "tiny_vit_openai.pt"), "rn": str(GOLDEN / "tiny_rn_openai.pt")}
EXPECTED = np.load(GOLDEN / "backbones.npz")


@pytest.fixture(scope="module")
def tiny(device: torch.device) -> dict[str, Backbone]:
    return {
        kind: open_backbone("CLIP:from-file", weights=[path], device=str(device))
        for kind, path in TINY.items()
    }


def pictures() -> torch.Tensor:
    """The two photographs, resized straight to 224x224, uint8."""
    resized = [
        Image.open(GOLDEN / "images" / name)
        .convert("RGB")
        .resize((224, 224), Image.Resampling.BILINEAR)
        for name in EXPECTED["names"]
    ]
    return torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in resized])


def unnormalized() -> torch.Tensor:
    """The reference's network input, taken back to 0..1."""
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(1, 3, 1, 1)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(1, 3, 1, 1)
    return torch.tensor(EXPECTED["preprocessed"]) * std + mean


def difference(found: torch.Tensor, key: str) -> float:
    expected = torch.tensor(EXPECTED[key])
    assert found.shape == expected.shape
    return float((found.cpu() - expected).abs().max())


def test_the_photographs_become_the_reference_network_input(tiny: dict[str, Backbone]) -> None:
    backbone = tiny["vit"]
    mean = torch.tensor(backbone.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.preprocessing.std).view(1, 3, 1, 1)
    assert difference((pictures().float() / 255 - mean) / std, "preprocessed") < 1e-5
    assert (backbone.preprocessing.height, backbone.preprocessing.width) == (224, 224)
    assert backbone.preprocessing.interpolation == "bilinear"


@pytest.mark.parametrize("images", [pictures(), unnormalized()], ids=["uint8", "float"])
@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("vit", ["layer0", "layer1", "layer2", "layer3"]),
        ("rn", ["layer1", "layer2", "layer3", "layer4"]),
    ],
)
def test_every_layer_equals_the_reference(
    tiny: dict[str, Backbone],
    kind: str,
    layers: list[str],
    images: torch.Tensor,
    tolerance: float,
) -> None:
    backbone = tiny[kind]
    assert list(backbone.layers) == layers
    features = backbone.features(images, layers)
    for layer in layers:
        assert difference(features[layer], f"{kind}/{layer}") < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("images", [pictures(), unnormalized()], ids=["uint8", "float"])
def test_the_fusion_equals_the_reference(
    images: torch.Tensor, device: torch.device, tolerance: float
) -> None:
    fused = open_backbone(
        "CLIP:from-file,CLIP:from-file", weights=[TINY["vit"], TINY["rn"]], device=str(device)
    )
    features = fused.features(images, ["layer2"])
    assert difference(features["layer2"], "fusion/vit_layer2+rn_layer3") < tolerance
