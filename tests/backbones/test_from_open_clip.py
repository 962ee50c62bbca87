from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch

from declip_pipeline.backbones.from_open_clip import build_visual, open_clip_tower
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import UnknownNameError, WeightsError

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_VIT = str(GOLDEN / "tiny_vit_openai.pt")


def small_clip(arch: str = "ViT-S-32-alt") -> dict[str, torch.Tensor]:
    """The state dict that open_clip saves for a small model, text network included."""
    config = open_clip.get_model_config(arch)
    config.pop("custom_text", None)
    config["text_cfg"] |= {"vocab_size": 100, "layers": 1}
    tensors: dict[str, torch.Tensor] = open_clip.CLIP(**config).state_dict()
    return tensors


def visual_on_meta(arch: str) -> torch.nn.Module:
    config = open_clip.get_model_config(arch)
    with torch.device("meta"):
        return build_visual(config["embed_dim"], config["vision_cfg"], quick_gelu=True)


@pytest.mark.slow
def test_an_open_clip_file_opens_its_architecture(tmp_path: Path) -> None:
    tensors = small_clip()
    safetensors.torch.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "epoch_1.pt")
    weights = [tmp_path / "open_clip_model.safetensors", tmp_path / "epoch_1.pt"]
    first, second = (
        open_backbone("ViT-S-32-alt", weights=[str(path)], device="cpu") for path in weights
    )
    assert first.name == second.name == "open_clip:ViT-S-32-alt"
    assert first.weights_sha256 == second.weights_sha256
    assert first.preprocessing.interpolation == "bicubic"
    assert list(first.layers) == [f"layer{block}" for block in range(12)]


@pytest.mark.slow
def test_features_are_the_outputs_of_the_residual_blocks(tmp_path: Path) -> None:
    tensors = small_clip()
    torch.save(tensors, tmp_path / "small.pt")
    backbone = open_backbone(
        "open_clip:ViT-S-32-alt", weights=[str(tmp_path / "small.pt")], device="cpu"
    )
    outputs: list[torch.Tensor] = []
    blocks = backbone.network.transformer.resblocks
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in blocks
    ]
    features = backbone.features(torch.rand(1, 3, 224, 224), list(backbone.layers))
    for handle in handles:
        handle.remove()
    for values, output in zip(features.values(), outputs, strict=True):
        assert torch.equal(values, output)


@pytest.mark.slow
def test_paper_names_have_the_papers_layers() -> None:
    """Shapes as in DeCLIP, table of backbones: 24 layers of 257x1024, and four grids of RN50."""
    visual = visual_on_meta("ViT-L-14-quickgelu").to_empty(device="cpu")
    vit = open_clip_tower(visual).shapes(224, 224)
    assert list(vit) == [f"layer{block}" for block in range(24)]
    assert {shape.array_shape for shape in vit.values()} == {(257, 1024)}
    visual = visual_on_meta("RN50-quickgelu").to_empty(device="cpu")
    resnet = open_clip_tower(visual).shapes(224, 224)
    assert {layer: shape.array_shape for layer, shape in resnet.items()} == {
        "layer1": (256, 56, 56),
        "layer2": (512, 28, 28),
        "layer3": (1024, 14, 14),
        "layer4": (2048, 7, 7),
    }


@pytest.mark.slow
def test_openai_networks_have_quick_gelu_and_bilinear_pictures() -> None:
    backbone = open_backbone("RN50", weights=["random:0"], device="cpu")
    assert backbone.preprocessing.interpolation == "bilinear"
    tag = open_backbone("ViT-B-32/openai", weights=["random:0"], device="cpu")
    assert tag.name == "open_clip:ViT-B-32-quickgelu/openai[random:0]"
    assert tag.preprocessing.interpolation == "bicubic"
    kinds = {type(module).__name__ for module in tag.network.modules()}
    assert "QuickGELU" in kinds
    assert "GELU" not in kinds


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(WeightsError) as caught:
        open_backbone("ViT-S-32-alt", weights=[TINY_VIT], device="cpu")
    message = str(caught.value)
    assert message.startswith(
        f"weights {TINY_VIT} does not hold the weights of open_clip:ViT-S-32-alt (152 tensors; "
    )
    assert "class_embedding 128 instead of 384, positional_embedding 257x128 instead of 50x384" in (
        message
    )
    assert "96 missing: transformer.resblocks.4.ln_1.weight 384" in message
    assert message.endswith("give a file of open_clip:ViT-S-32-alt, or the `arch` of this file")
    assert "\n" not in message


@pytest.mark.slow
def test_position_embeddings_are_never_resized(tmp_path: Path) -> None:
    tensors = small_clip()
    tensors["visual.positional_embedding"] = torch.zeros(65, 384)
    torch.save(tensors, tmp_path / "larger_pictures.pt")
    message = r"1 of another shape: positional_embedding 65x384 instead of 50x384\)"
    with pytest.raises(WeightsError, match=message):
        open_backbone("ViT-S-32-alt", weights=[str(tmp_path / "larger_pictures.pt")], device="cpu")


def test_a_file_without_an_image_network_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"holds no tensor named visual\.\*, so it is no CLIP"):
        open_backbone("ViT-S-32-alt", weights=[str(tmp_path / "other.pt")], device="cpu")
    with pytest.raises(
        WeightsError, match=r"is not in OpenAI's CLIP layout \(no tensor visual.att"
    ):
        open_backbone("CLIP:from-file", weights=[str(tmp_path / "other.pt")], device="cpu")


@pytest.mark.parametrize("weights", [[], ["random:0"]])
def test_from_file_needs_a_file(weights: list[str]) -> None:
    with pytest.raises(
        WeightsError, match=r"reads the architecture off a file; give `weights=FILE`"
    ):
        open_backbone("CLIP:from-file", weights=weights, device="cpu")


def test_a_bare_architecture_needs_a_tag_or_weights() -> None:
    message = (
        r"ViT-L-14 alone does not say which weights; give a tag \(ViT-L-14/openai, .*`weights=FILE`"
    )
    with pytest.raises(WeightsError, match=message):
        open_backbone("ViT-L-14", device="cpu")
    with pytest.raises(WeightsError, match=r"which weights; give `weights=FILE`"):
        open_backbone("ViT-S-32-alt", device="cpu")


def test_an_unknown_tag_is_told_with_the_known_ones() -> None:
    message = (
        r"unknown tag of open_clip's RN50 'opnai'; did you mean 'openai'\? known: openai, yfcc15m"
    )
    with pytest.raises(UnknownNameError, match=message):
        open_backbone("RN50/opnai", device="cpu")


@pytest.mark.slow
def test_a_timm_network_inside_open_clip() -> None:
    backbone = open_backbone("ViT-B-16-SigLIP", weights=["random:0"], device="cpu")
    assert {shape.array_shape for shape in backbone.layers.values()} == {(196, 768)}
    assert backbone.layers["layer0"].prefix_tokens == 0
    images = torch.rand(1, 3, 224, 224)
    assert backbone.features(images, ["layer0"])["layer0"].shape == (1, 196, 768)
