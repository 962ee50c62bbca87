from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from declip_pipeline.backbones.from_timm import embedded_weights, lite0_classifier
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import WeightsError

IMAGES = Path(__file__).parents[1] / "golden" / "images"
CATS = {281, 282, 285}  # ImageNet: tabby, tiger cat, Egyptian cat
ESPRESSO = 967


def picture(name: str) -> torch.Tensor:
    image = Image.open(IMAGES / name).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]


@pytest.mark.slow
def test_layers_are_the_five_stages() -> None:
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    assert backbone.name == "efficientnet-lite0"
    assert {layer: shape.array_shape for layer, shape in backbone.layers.items()} == {
        "layer1": (16, 112, 112),
        "layer2": (24, 56, 56),
        "layer3": (40, 28, 28),
        "layer4": (112, 14, 14),
        "layer5": (320, 7, 7),
    }
    assert backbone.preprocessing.to_json() == {
        "height": 224,
        "width": 224,
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("chelsea.png", CATS), ("coffee.jpg", {ESPRESSO})])
def test_the_installed_weights_recognise_the_photographs(name: str, classes: set[int]) -> None:
    """Only the right mapping of entries does: 0.67 for the cat and 0.93 for the cup, measured."""
    network = lite0_classifier(embedded_weights()).eval()
    with torch.no_grad():
        scores = network(picture(name).float() / 127.5 - 1).softmax(dim=1)[0]
    assert int(scores.argmax()) in classes
    assert float(scores.max()) > 0.5


@pytest.mark.slow
def test_features_are_those_of_the_classifier() -> None:
    network = lite0_classifier(embedded_weights()).eval()
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    images = picture("chelsea.png")
    with torch.no_grad():
        expected = network.forward_intermediates(
            images.float() / 127.5 - 1, intermediates_only=True
        )
    found = backbone.features(images, list(backbone.layers))
    for values, reference in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(values, reference, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    tensors = torch.load(embedded_weights(), weights_only=True)
    shorter = dict(list(tensors.items())[:-1])
    torch.save(shorter, tmp_path / "shorter.pth")
    with pytest.raises(WeightsError, match=r"holds 295 tensors where efficientnet-lite0 has 296"):
        open_backbone("efficientnet-lite0", weights=[str(tmp_path / "shorter.pth")], device="cpu")
    tensors["_conv_stem.weight"] = torch.zeros(16, 3, 3, 3)
    torch.save(tensors, tmp_path / "other.pth")
    message = (
        r"_conv_stem.weight is 16x3x3x3 where .* conv_stem.weight of 32x3x3x3; leave `weights`"
    )
    with pytest.raises(WeightsError, match=message):
        open_backbone("efficientnet-lite0", weights=[str(tmp_path / "other.pth")], device="cpu")


@pytest.mark.slow
def test_a_file_in_the_embedded_layout_is_taken() -> None:
    given = open_backbone("efficientnet-lite0", weights=[embedded_weights()], device="cpu")
    assert given.weights_sha256 == open_backbone("efficientnet-lite0", device="cpu").weights_sha256
