"""Files of OpenAI, Hugging Face and DINOv2: what they say, and their tensors by the known names."""

from pathlib import Path

import open_clip
import pytest
import timm
import torch

from declip_pipeline.backbones.from_open_clip import build_visual
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.backbones.weights_layouts import clip_tensors, timm_tensors
from declip_pipeline.errors import WeightsError

TINY_VIT = Path(__file__).parents[1] / "golden" / "tiny_vit_openai.pt"
MARKS = {
    "input_resolution": torch.tensor(224),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


def visual_tensors(arch: str) -> dict[str, torch.Tensor]:
    config = open_clip.get_model_config(arch)
    with torch.device("meta"):
        visual = build_visual(config["embed_dim"], config["vision_cfg"], quick_gelu=False)
    shapes = {f"visual.{name}": tensor.shape for name, tensor in visual.state_dict().items()}
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}


def activations(name: str, file: Path) -> tuple[str, set[str]]:
    backbone = open_backbone(name, weights=[str(file)], device="cpu")
    kinds = {type(module).__name__ for module in backbone.network.modules()}
    return backbone.name, {kind for kind in kinds if "GELU" in kind}


def refusal(name: str, file: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        open_backbone(name, weights=[str(file)], device="cpu")
    return str(caught.value)


@pytest.mark.slow
def test_openais_file_is_computed_with_quick_gelu_under_every_name(tmp_path: Path) -> None:
    torch.save(visual_tensors("ViT-B-32") | MARKS, tmp_path / "openai.pt")
    file = tmp_path / "openai.pt"
    assert activations("ViT-B-32", file) == ("open_clip:ViT-B-32-quickgelu", {"QuickGELU"})
    assert activations("CLIP:ViT-B/32", file) == ("CLIP:ViT-B/32", {"QuickGELU"})
    assert activations("CLIP:from-file", file) == ("CLIP:from-file", {"QuickGELU"})
    assert refusal("ViT-B-32/laion2b_s34b_b79k", file) == (
        f"weights {file} is OpenAI's, whose networks compute with QuickGELU, and "
        "open_clip:ViT-B-32/laion2b_s34b_b79k computes with GELU; take "
        '`arch="ViT-B-32-quickgelu"`'
    )


@pytest.mark.slow
def test_a_file_that_does_not_say_its_activation_needs_its_architecture(tmp_path: Path) -> None:
    file = tmp_path / "laion.bin"
    torch.save(visual_tensors("ViT-B-32"), file)
    assert refusal("CLIP:from-file", file) == (
        f"weights {file} is not one of OpenAI's own files, and does not say whether the network "
        "computes with QuickGELU (as OpenAI's) or GELU (as most others); name its architecture "
        'with `arch="ViT-B-32"` or `arch="ViT-B-32-quickgelu"`'
    )
    assert activations("ViT-B-32", file) == ("open_clip:ViT-B-32", {"GELU"})
    assert activations("ViT-B-32-quickgelu", file)[1] == {"QuickGELU"}


def in_hugging_face_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a ViT by the names that transformers' CLIPModel gives them."""
    whole = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    parts = {
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "transformer.resblocks": "encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.": "self_attn.",
    }
    found = {
        "logit_scale": torch.tensor(1.0),
        "text_model.final_layer_norm.weight": torch.ones(3),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    for name, tensor in tensors.items():
        own = name.removeprefix("visual.")
        if own == "proj":
            found["visual_projection.weight"] = tensor.T.contiguous()
        elif own in whole:
            found[f"vision_model.{whole[own]}"] = tensor
        else:
            for ours, theirs in parts.items():
                own = own.replace(ours, theirs)
            if "in_proj_" in own:
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"vision_model.{own.replace('in_proj_', f'{part}_proj.')}"] = piece
            else:
                found[f"vision_model.{own}"] = tensor
    return found


def test_hugging_faces_layout_is_converted_to_openais() -> None:
    ours = {name: t for name, t in read_tensors(TINY_VIT).items() if name.startswith("visual.")}
    theirs = in_hugging_face_layout(ours)
    assert not ours.keys() & theirs.keys()
    found = clip_tensors(theirs, source="weights a")
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in ours.items())
    del theirs["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.in_proj_bias lacks a part"):
        clip_tensors(theirs, source="weights a")


@pytest.mark.slow
def test_hugging_faces_file_opens_under_its_architecture(tmp_path: Path) -> None:
    ours = visual_tensors("ViT-B-32")
    torch.save(ours, tmp_path / "ours.bin")
    torch.save(in_hugging_face_layout(ours), tmp_path / "theirs.bin")
    one, other = (
        open_backbone("ViT-B-32", weights=[str(tmp_path / name)], device="cpu")
        for name in ("ours.bin", "theirs.bin")
    )
    assert one.weights_sha256 == other.weights_sha256
    with pytest.raises(WeightsError, match=r"is a CLIP in Hugging Face's layout, and does not say"):
        open_backbone("CLIP:from-file", weights=[str(tmp_path / "theirs.bin")], device="cpu")


@pytest.mark.parametrize("arch", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_dinov2s_own_file_is_read_as_timms_filter_reads_it(arch: str) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    network = timm.create_model(arch, num_classes=0, img_size=28)
    own = {name: torch.randn(tensor.shape) for name, tensor in network.state_dict().items()}
    published = own | {"mask_token": torch.zeros(1, 384)}
    if "reg_token" in published:
        published["register_tokens"] = published.pop("reg_token")
        published["pos_embed"] = torch.randn(1, 5, 384)
    expected = checkpoint_filter_fn(dict(published), network)
    found = timm_tensors(published)
    assert found.keys() == expected.keys() == own.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    network.load_state_dict(found)
