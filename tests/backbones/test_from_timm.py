from pathlib import Path

import pytest
import timm
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import UnknownNameError, WeightsError


@pytest.mark.slow
def test_class_and_register_tokens_stand_first() -> None:
    backbone = open_backbone(
        "timm:vit_small_patch14_reg4_dinov2", weights=["random:0"], device="cpu"
    )
    assert list(backbone.layers) == [f"layer{block}" for block in range(12)]
    shape = backbone.layers["layer0"]
    assert (shape.prefix_tokens, shape.height, shape.width) == (5, 16, 16)
    assert shape.array_shape == (5 + 16 * 16, 384)
    features = backbone.features(torch.rand(1, 3, 224, 224), ["layer0"])
    assert features["layer0"].shape == (1, 261, 384)


def test_tokens_are_the_outputs_of_the_blocks() -> None:
    backbone = open_backbone("timm:vit_tiny_patch16_224", weights=["random:0"], device="cpu")
    outputs: list[torch.Tensor] = []
    blocks = backbone.network.blocks
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in blocks
    ]
    features = backbone.features(torch.rand(1, 3, 224, 224), ["layer3", "layer0"])
    for handle in handles:
        handle.remove()
    assert len(outputs) == 4
    assert torch.equal(features["layer0"], outputs[0])
    assert torch.equal(features["layer3"], outputs[3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("resnet18", {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}),
        ("convnext_atto", {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}),
        ("mobilenetv3_small_050", {f"layer{i}": 2**i for i in range(1, 6)}),
    ],
)
def test_stages_of_convolutional_networks(name: str, strides: dict[str, int]) -> None:
    backbone = open_backbone(f"timm:{name}", weights=["random:0"], device="cpu")
    assert {layer: 224 // shape.height for layer, shape in backbone.layers.items()} == strides
    assert all(shape.is_grid for shape in backbone.layers.values())


def test_resnet_layers_are_its_own() -> None:
    backbone = open_backbone("timm:resnet18", weights=["random:0"], device="cpu")
    outputs: list[torch.Tensor] = []
    stage = backbone.network.layer2
    handle = stage.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    features = backbone.features(torch.rand(1, 3, 224, 224), ["layer2"])
    handle.remove()
    assert torch.equal(features["layer2"], outputs[0])


@pytest.mark.slow
def test_a_network_that_keeps_tables_from_its_first_run() -> None:
    """ConViT does; the tables must not be those of the run that only derives the shapes."""
    backbone = open_backbone("timm:convit_tiny", weights=["random:0"], device="cpu")
    features = backbone.features(torch.rand(1, 3, 224, 224), ["layer1"])
    assert tuple(features["layer1"].shape[1:]) == backbone.layers["layer1"].array_shape
    assert torch.isfinite(features["layer1"]).all()


def test_a_file_with_or_without_its_classifier(tmp_path: Path) -> None:
    tensors = timm.create_model("test_vit").state_dict()
    torch.save(tensors, tmp_path / "whole.pth")
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    torch.save(headless, tmp_path / "headless.pth")
    assert len(headless) == len(tensors) - 2
    first = open_backbone("timm:test_vit", weights=[str(tmp_path / "whole.pth")], device="cpu")
    second = open_backbone(
        "timm:test_vit.r160_in1k", weights=[str(tmp_path / "headless.pth")], device="cpu"
    )
    assert first.weights_sha256 == second.weights_sha256
    assert (first.name, second.name) == ("timm:test_vit", "timm:test_vit.r160_in1k")


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "other.pth")
    message = r"other.pth does not hold the weights of timm:test_vit \("
    with pytest.raises(WeightsError, match=message):
        open_backbone("timm:test_vit", weights=[str(tmp_path / "other.pth")], device="cpu")


def test_an_unknown_tag_is_told_with_the_known_ones() -> None:
    message = r"unknown tag of timm's resnet18 'a1_in1'; did you mean 'a1_in1k'\? known: a1_in1k, "
    with pytest.raises(UnknownNameError, match=message):
        open_backbone("timm:resnet18.a1_in1", weights=["random:0"], device="cpu")
