"""Whole networks as ONNX files: they compute what torch does, or there is no file."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.names import LIGHT_TYPES
from declip_pipeline.errors import DeclipError, IdentityMismatchError, InputError
from declip_pipeline.exchange import onnx as onnx_export
from declip_pipeline.exchange.onnx import WholeNetwork, export_onnx, require_onnx
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.identity import feature_identity, joined_identity


def identity(backbone, layer):
    return feature_identity(
        backbone.name,
        backbone.weights_sha256,
        backbone.preprocessing.to_json(),
        layer,
        backbone.layers[layer],
    )


def network_of(pairs, decoder_type):
    """A whole network of (backbone, layer) pairs and a narrow decoder that joins them."""
    widths = {"conv-4": [8, 8, 4, 4], "mlp": [8], "fcn": [8, 4], "pup": [16, 8, 4]}
    shapes = [backbone.layers[layer] for backbone, layer in pairs]
    light = decoder_type in LIGHT_TYPES
    decoder = build_decoder(
        decoder_type,
        shapes,
        widths=widths.get(decoder_type),
        normalize="channel" if light else "none",
    )
    initialize(decoder, "pytorch", seed=2)
    if decoder.normalization is not None:
        of_channels = [torch.linspace(0.5, 2, shape.channels) for shape in shapes]
        decoder.normalization.fit([(values - 1, values) for values in of_channels], 9)
    features = joined_identity([identity(*pair) for pair in pairs], "concat")
    return WholeNetwork([backbone for backbone, _ in pairs], decoder, features)


@pytest.fixture(scope="module")
def backbones(golden):
    files = {"vit": golden / "tiny_vit_openai.pt", "rn": golden / "tiny_rn_openai.pt"}
    opened = {
        kind: open_backbone("CLIP:from-file", weights=[str(file)], device="cpu")
        for kind, file in files.items()
    }
    both = [str(file) for file in files.values()]
    opened["fusion"] = open_backbone("CLIP:from-file,CLIP:from-file", weights=both, device="cpu")
    return opened


@pytest.fixture(scope="module")
def pictures(golden):
    return [decode_image(golden / "images" / name) for name in ("chelsea.png", "coffee.jpg")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pairs", "decoder_type"),
    [
        ([("vit", "layer2")], "attention"),
        ([("fusion", "layer1")], "conv-4"),
        ([("vit", "layer1"), ("rn", "layer2")], "linear"),
        ([("vit", "layer1"), ("rn", "layer2")], "mlp"),
        ([("vit", "layer1"), ("vit", "layer2")], "pup"),
        ([("rn", "layer2")], "fcn"),
    ],
)
def test_the_file_computes_what_torch_does(pairs, decoder_type, backbones, pictures, tmp_path):
    network = network_of([(backbones[kind], layer) for kind, layer in pairs], decoder_type)
    path = tmp_path / "out" / "network.onnx"
    difference = export_onnx(path, network, pictures, about={"decoder_type": decoder_type})
    assert 0 <= difference < 1e-5
    assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [3, 224, 224])
    assert (taken.name, taken.type, taken.shape[1:]) == (
        *("probabilities", "tensor(float)"),
        [256, 256],
    )
    # Other images, and another number of them, than it was traced and checked with.
    batch = np.stack(
        [resize_image(picture[::-1], 224, 224) for picture in (*pictures, pictures[0])]
    )
    batch = batch.transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    found = session.run(None, {"images": batch})[0]
    assert found.std() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    metadata = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert json.loads(metadata["declip_pipe"]) == {"decoder_type": decoder_type}


@pytest.mark.slow
@pytest.mark.parametrize("difference", [0.02, float("nan")])
def test_a_file_that_differs_is_not_left(difference, backbones, pictures, tmp_path, monkeypatch):
    network = network_of([(backbones["vit"], "layer0")], "linear")
    monkeypatch.setattr(onnx_export, "_write_graph", lambda path, *others: path.touch())
    monkeypatch.setattr(onnx_export, "_largest_difference", lambda *others: difference)
    path = tmp_path / "network.onnx"
    words = rf"differs from torch by up to {difference} in a probability, expected at most 0.0001; "
    with pytest.raises(DeclipError, match=words + f"{path} was not written"):
        export_onnx(path, network, pictures[:1], about={})
    assert list(tmp_path.iterdir()) == []


def test_what_onnxruntime_cannot_run_is_not_left(backbones, pictures, tmp_path, monkeypatch):
    network = network_of([(backbones["vit"], "layer0")], "linear")
    monkeypatch.setattr(onnx_export, "_write_graph", lambda path, *others: path.write_text("no"))
    with pytest.raises(DeclipError, match=r"^onnxruntime cannot run what was exported: "):
        export_onnx(tmp_path / "network.onnx", network, pictures[:1], about={})
    assert list(tmp_path.iterdir()) == []


def test_what_the_exporter_cannot_do_is_told_in_a_line(backbones, pictures, tmp_path, monkeypatch):
    network = network_of([(backbones["vit"], "layer0")], "linear")

    def fail(*arguments, **options):
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(DeclipError, match=r"cannot be exported to ONNX: no such operator$"):
        export_onnx(tmp_path / "network.onnx", network, pictures[:1], about={})
    assert list(tmp_path.iterdir()) == []


def test_too_large_a_network_is_refused_before_it_is_computed(
    backbones, pictures, tmp_path, monkeypatch
):
    network = network_of([(backbones["vit"], "layer0")], "linear")
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    with pytest.raises(InputError, match=r"the weights take 0.0 GB, and an ONNX file holds less"):
        export_onnx(tmp_path / "a.onnx", network, pictures, about={})


def test_missing_packages_are_named_with_the_remedy(monkeypatch):
    require_onnx()
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else 1)
    words = r"needs onnxscript, which is not installed; pip install 'declip-pipe\[onnx\]'"
    with pytest.raises(InputError, match=words):
        require_onnx()


def test_another_backbone_is_refused_by_its_field(backbones):
    decoder = build_decoder("linear", backbones["vit"].layers["layer1"])
    with pytest.raises(IdentityMismatchError, match=r"^weights_sha256 differs"):
        WholeNetwork([backbones["rn"]], decoder, identity(backbones["vit"], "layer1"))


def test_backbones_that_see_pictures_differently_are_refused(backbones):
    other = open_backbone("timm:test_vit", weights=["random:0"], device="cpu")
    words = r"see images of 224x224 bilinear and 160x160 bicubic; one graph takes one image"
    with pytest.raises(InputError, match=words):
        network_of([(backbones["vit"], "layer1"), (other, "layer1")], "linear")


def test_whole_images_beside_tiles_are_refused(backbones):
    backbone = backbones["vit"]
    beside = {**identity(backbone, "layer0"), "windows": 224}
    shapes = [backbone.layers["layer1"], backbone.layers["layer0"]]
    decoder = build_decoder("linear", shapes)
    features = joined_identity([identity(backbone, "layer1"), beside], "concat")
    with pytest.raises(InputError, match="whole images beside tiles"):
        WholeNetwork([backbone, backbone], decoder, features)
