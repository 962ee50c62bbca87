"""What a published decoder is, told from its tensors and from its file's name."""

import json
from pathlib import Path

import pytest
import torch

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.exchange.published_decoder import (
    FUSION,
    PUBLISHED,
    RESNET,
    VIT,
    FileNameHints,
    decoder_type_of,
    infer_arch,
    infer_layer,
    stated,
)
from declip_pipeline.exchange.published_file import PublishedCheckpoint

GOLDEN = Path(__file__).parents[1] / "golden"
PARAMETERS = {
    case["case"]: case["parameters"] for case in json.loads((GOLDEN / "decoders.json").read_text())
}
ARCHS = {"ViT-L/14": VIT, "RN50": RESNET, "ViT-L/14,RN50": FUSION}
NONE = FileNameHints()


def checkpoint_of(case: str, file: str = "model_epoch_best.pth") -> PublishedCheckpoint:
    """A golden decoder's names and shapes, in a checkpoint that says nothing else."""
    tensors = {name: torch.empty(shape, device="meta") for name, shape in PARAMETERS[case].items()}
    return PublishedCheckpoint(Path(file), tensors, {}, None, None, None)


@pytest.mark.parametrize("case", PARAMETERS)
def test_type_backbone_and_layer_of_every_golden_decoder(case):
    arch, layer, kind = case.split("|")
    checkpoint = checkpoint_of(case)
    assert decoder_type_of(checkpoint.decoder, checkpoint.path) == kind
    if layer == "layer4":
        return  # a fusion has one, too: the next test
    assert infer_arch(checkpoint, kind, layer, NONE) == ARCHS[arch]
    shapes = PUBLISHED[ARCHS[arch]]
    assert infer_layer(checkpoint, kind, ARCHS[arch], layer, shapes, NONE) == layer


@pytest.mark.slow
def test_shapes_tell_the_layers_of_a_resnet():
    for layer in ("layer1", "layer2", "layer3"):
        checkpoint = checkpoint_of(f"RN50|{layer}|conv-4")
        assert infer_arch(checkpoint, "conv-4", None, NONE) == RESNET
        found = infer_layer(checkpoint, "conv-4", RESNET, None, PUBLISHED[RESNET], NONE)
        assert found == layer


def test_what_shapes_cannot_tell_is_asked_for():
    resnet = checkpoint_of("RN50|layer4|conv-4")
    words = r"may be one of CLIP:RN50 and of CLIP:ViT-L/14,CLIP:RN50; say which with `arch`"
    for layer in ("layer4", None):
        with pytest.raises(InputError, match=words):
            infer_arch(resnet, "conv-4", layer, NONE)
    assert infer_arch(resnet, "conv-4", "layer3", NONE) == FUSION
    vit = checkpoint_of("ViT-L/14|layer20|linear")
    words = r"it fits 24 of them \(layer0 to layer23\); say it with `feature_layer`"
    with pytest.raises(InputError, match=words):
        infer_layer(vit, "linear", VIT, None, PUBLISHED[VIT], NONE)


@pytest.mark.parametrize(
    ("file", "arch", "layer", "trained_on"),
    [
        ("ViT_layer20_conv-20_repaint-p2-9k.pth", VIT, "layer20", "repaint-p2-9k"),
        ("ViT_layer20+RN50_layer3_conv-20_lama.pth", FUSION, "layer20", "lama"),
        ("ViT_layer4%2BRN50_layer3_conv-20_ldm.pth", FUSION, "layer4", "ldm"),
        ("RN50_layer4_conv-4_ldm.pth", RESNET, "layer4", "ldm"),
        ("model_epoch_best.pth", None, None, None),
    ],
)
def test_a_published_name_says_the_rest(file, arch, layer, trained_on):
    assert FileNameHints.of(Path("some") / file) == FileNameHints(arch, layer, trained_on)


@pytest.mark.slow
def test_a_name_decides_where_shapes_do_not_and_never_against_them():
    case = "RN50|layer4|conv-4"
    for file, arch in (
        ("ViT_layer4+RN50_layer3_conv-4_ldm.pth", FUSION),
        ("RN50_layer4_conv-4_ldm.pth", RESNET),
    ):
        hints = FileNameHints.of(Path(file))
        assert infer_arch(checkpoint_of(case), "conv-4", None, hints) == arch
        found = infer_layer(checkpoint_of(case), "conv-4", arch, None, PUBLISHED[arch], hints)
        assert found == "layer4"
    wrong = FileNameHints.of(Path("ViT_layer3_conv-4_ldm.pth"))
    assert infer_arch(checkpoint_of("RN50|layer3|conv-4"), "conv-4", None, wrong) == RESNET


def test_the_backbone_in_the_file_decides_too():
    checkpoint = checkpoint_of("RN50|layer4|conv-4")
    visual = {"layer1.0.conv1.weight": torch.empty(64, 64, 1, 1, device="meta")}
    inside = PublishedCheckpoint(checkpoint.path, checkpoint.decoder, visual, None, None, None)
    assert infer_arch(inside, "conv-4", "layer4", NONE) == RESNET
    other = {"class_embedding": torch.empty(768, device="meta")}
    strange = PublishedCheckpoint(checkpoint.path, checkpoint.decoder, other, None, None, None)
    with pytest.raises(InputError, match=r"neither ViT-L/14 nor RN50; name it with `arch`"):
        infer_arch(strange, "conv-4", "layer4", NONE)


def test_missing_and_unexpected_tensors_are_named():
    checkpoint = checkpoint_of("ViT-L/14|layer20|conv-4")
    bias = checkpoint.decoder.pop("fc.4.bias")
    checkpoint.decoder["fc.99.bias"] = bias
    with pytest.raises(InputError) as caught:
        infer_arch(checkpoint, "conv-4", "layer20", NONE)
    text = str(caught.value)
    assert "its model is no conv-4 decoder for layer20 of CLIP:ViT-L/14" in text
    assert "1 missing: fc.4.bias 256; 1 unexpected: fc.99.bias 256" in text


def test_a_type_that_the_tensors_are_not_is_refused():
    checkpoint = checkpoint_of("ViT-L/14|layer20|conv-4")
    with pytest.raises(InputError, match=r"is no conv-12 decoder for layer20 of CLIP:ViT-L/14"):
        infer_arch(checkpoint, "conv-12", "layer20", NONE)


def test_a_layer_that_no_backbone_has_is_refused():
    checkpoint = checkpoint_of("ViT-L/14|layer20|linear")
    with pytest.raises(UnknownNameError, match=r"unknown layer of .*'layer24'"):
        infer_arch(checkpoint, "linear", "layer24", NONE)
    with pytest.raises(UnknownNameError, match=r"unknown layer of CLIP:RN50 'layer20'"):
        infer_layer(checkpoint, "linear", RESNET, "layer20", PUBLISHED[RESNET], NONE)


def test_tensors_of_no_decoder_are_refused():
    tensors = {"fc.1.weight": torch.empty(3)}
    with pytest.raises(
        InputError, match=r"its tensors \(fc.1.weight\) are those of no known decoder"
    ):
        decoder_type_of(tensors, Path("a.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "lost", "words"),
    [
        ("ViT-L/14|layer20|linear", ["fc.0.weight"], "linear decoder; missing: fc.0.weight"),
        ("ViT-L/14|layer20|conv-4", ["fc.8.weight"], "conv-4 decoder; missing: fc.8.weight"),
        ("ViT-L/14|layer20|conv-12", ["fc.3.weight"], "conv-12 decoder; missing: fc.3.weight"),
        ("RN50|layer1|conv-4", ["fc.0.weight"], "conv-4 decoder; missing: fc.0.weight"),
        (
            "ViT-L/14|layer20|conv-20",
            ["fc.0.weight", "fc.0.bias", "fc.1.weight", "fc.1.bias"],
            "conv-20 decoder; missing: fc.0.bias, fc.0.weight, fc.1.bias and 1 more",
        ),
    ],
)
def test_of_an_incomplete_decoder_it_is_said_what_it_looks_like(case, lost, words):
    tensors = checkpoint_of(case).decoder
    for name in lost:
        del tensors[name]
    with pytest.raises(InputError) as caught:
        decoder_type_of(tensors, Path("a.pth"))
    assert str(caught.value) == (
        f"a.pth: its tensors look like those of a {words}; give a complete checkpoint"
    )


def test_what_a_decoder_has_besides_is_said_too():
    tensors = checkpoint_of("ViT-L/14|layer20|conv-4").decoder
    tensors["fc.99.weight"] = torch.empty(1, 1, 5, 5, device="meta")
    with pytest.raises(InputError, match=r"a conv-4 decoder; unexpected: fc.99.weight; give a"):
        decoder_type_of(tensors, Path("a.pth"))


def test_an_option_must_not_contradict_the_file():
    assert stated(None, "layer1", "feature layer", Path("a.pth")) == "layer1"
    assert stated("layer2", None, "feature layer", Path("a.pth")) == "layer2"
    with pytest.raises(
        InputError, match=r"says layer1 for its feature layer, and layer2 was asked"
    ):
        stated("layer2", "layer1", "feature layer", Path("a.pth"))
