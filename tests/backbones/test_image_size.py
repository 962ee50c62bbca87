"""Backbones at other sizes than their own, held against what timm and open_clip do themselves."""

import open_clip
import pytest
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import InputError


def normalized(images, backbone):
    mean = torch.tensor(backbone.preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(backbone.preprocessing.std).view(3, 1, 1)
    return (images - mean) / std


def test_a_vit_of_timm_is_what_timm_builds_at_that_size(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    backbone = open_backbone(
        "timm:vit_tiny_patch16_224", weights=tmp_path / "vit.pth", image_size=(64, 96), device="cpu"
    )
    assert backbone.layers["layer3"].array_shape == (1 + 4 * 6, 192)
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(64, 96)).eval()
    # As timm does it when it loads pretrained weights.
    own.load_state_dict(checkpoint_filter_fn(network.state_dict(), own))
    images = torch.rand(2, 3, 64, 96)
    (tokens,) = own.forward_intermediates(
        normalized(images, backbone),
        indices=[3],
        norm=False,
        output_fmt="NLC",
        return_prefix_tokens=False,
        intermediates_only=True,
    )
    found = backbone.features(images, ["layer3"])["layer3"]
    assert torch.allclose(found[:, 1:], tokens, atol=1e-5)


def test_a_clip_is_what_open_clip_builds_at_that_size(tmp_path):
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "clip.pth")
    backbone = open_backbone(
        "ViT-S-32-alt", weights=tmp_path / "clip.pth", image_size=128, device="cpu"
    )
    own = open_clip.create_model(
        "ViT-S-32-alt", pretrained=str(tmp_path / "clip.pth"), force_image_size=128
    ).eval()
    images = torch.rand(2, 3, 128, 128)
    output = own.visual.forward_intermediates(
        normalized(images, backbone),
        indices=[2],
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt="NLC",
    )
    found = backbone.features(images, ["layer2"])["layer2"]
    assert torch.allclose(found[:, 1:], output["image_intermediates"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("efficientnet-lite0", 448, (28, 28)),
        ("timm:test_resnet", (96, 160), (6, 10)),
        ("dinov2-vit-s14", (448, 224), (32, 16)),
    ],
)
def test_the_grid_follows_the_size(name, size, grid):
    weights = ["random:0"] if name.startswith("timm:") else None
    backbone = open_backbone(name, weights=weights, image_size=size, device="cpu")
    layer = "layer4" if name == "efficientnet-lite0" else "layer3"
    shape = backbone.layers[layer]
    assert (shape.height, shape.width) == grid
    height, width = (size, size) if isinstance(size, int) else size
    features = backbone.features(torch.rand(1, 3, height, width), [layer])[layer]
    assert tuple(features.shape[1:]) == shape.array_shape


@pytest.mark.slow
def test_dinov2_and_dinov3_see_224_pixels_unless_told_otherwise():
    for name, grid in (("dinov2", 16), ("dinov3", 14)):
        patch = 14 if name == "dinov2" else 16
        arch = f"timm:vit_small_patch{patch}_{name}"
        backbone = open_backbone(arch, weights=["random:0"], device="cpu")
        assert (backbone.preprocessing.height, backbone.layers["layer0"].height) == (224, grid)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("dinov2-vit-s14", 230, "230x230 pixels .* multiples of 14; .* such as 224$"),
        (
            "efficientnet-lite0",
            (224, 100),
            "takes multiples of 32; take an `image_size` such as 224x96$",
        ),
        ("timm:test_resnet", 8, "takes multiples of 32; .*such as 32$"),
        ("ViT-S-32-alt", 100, "takes multiples of 32; .*such as 96$"),
        ("timm:convit_tiny", 448, "takes images of 224x224 only"),
        ("pixels:64", 96, "pixels:64 says its size itself"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_in_one_line(name, size, message):
    weights = None if name.startswith(("dino", "eff", "pixels")) else ["random:0"]
    with pytest.raises(InputError, match=message) as caught:
        open_backbone(name, weights=weights, image_size=size, device="cpu")
    assert "\n" not in str(caught.value)
