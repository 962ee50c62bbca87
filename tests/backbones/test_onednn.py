"""Linear layers by oneDNN: the same features, weights and graphs as PyTorch's own."""

from copy import deepcopy

import pytest
import torch
from conftest import TINY_VIT
from torch import nn

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.backbones.onednn import linear_by_onednn, use_onednn
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.features import FeatureShape


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", [(20, 24), (20, 7, 24), (3, 7, 24), (1, 24), (20, 2, 5, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_linear_layer_equals_pytorchs(shape, has_bias):
    inputs = torch.randn(shape)
    weight, bias = torch.randn(16, 24), torch.randn(16) if has_bias else None
    found = linear_by_onednn(inputs, weight, bias)
    torch.testing.assert_close(found, nn.functional.linear(inputs, weight, bias))


def test_attention_equals_pytorchs_and_is_computed_by_convolutions():
    plain = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    network = nn.Sequential(deepcopy(plain))
    use_onednn(network)
    (attention,) = network
    tokens = torch.randn(20, 7, 24)
    with torch.profiler.profile() as profile:
        found, weights = attention(tokens, tokens, tokens, need_weights=False, attn_mask=None)
    torch.testing.assert_close(found, plain(tokens, tokens, tokens, need_weights=False)[0])
    assert weights is None
    names = {event.name for event in profile.events()}
    assert "aten::mkldnn_convolution" in names
    assert not names & {"aten::linear", "aten::addmm"}


def test_attention_in_bfloat16_copies_no_weights():
    plain = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    network = nn.Sequential(deepcopy(plain))
    use_onednn(network)
    (attention,) = network
    tokens = torch.randn(20, 7, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as profile:
        found, _ = attention(tokens, tokens, tokens, need_weights=False)
    expected = plain(tokens, tokens, tokens, need_weights=False)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    # What PyTorch's own forward calls, with the weights once for each token.
    assert "aten::bmm" not in {event.name for event in profile.events()}


def test_attention_of_other_forms_stays_pytorchs():
    plain = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    network = nn.Sequential(deepcopy(plain))
    use_onednn(network)
    (attention,) = network
    tokens, others = torch.randn(2, 20, 7, 24)
    mask = torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    for arguments, keywords in [
        ((tokens, tokens, tokens), {"need_weights": True}),
        ((tokens, others, others), {"need_weights": False}),
        ((tokens, tokens, tokens), {"need_weights": False, "attn_mask": mask}),
    ]:
        expected = plain(*arguments, **keywords)
        found = attention(*arguments, **keywords)
        torch.testing.assert_close(found[0], expected[0])


def test_every_linear_layer_of_a_vit_is_onednns():
    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu")
    sides = backbone.preprocessing.height, backbone.preprocessing.width
    images = torch.zeros(16, 3, *sides, dtype=torch.uint8)
    with torch.profiler.profile() as profile:
        backbone.features(images, list(backbone.layers))
    assert not {event.name for event in profile.events()} & {"aten::linear", "aten::addmm"}


def test_names_and_values_of_the_weights_stay():
    network = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1, batch_first=True))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    use_onednn(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_exported_graph_has_linear_layers():
    network = nn.Sequential(nn.Linear(4, 4)).eval()
    use_onednn(network)
    program = torch.export.export(network, (torch.randn(20, 4),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.linear.default" in targets
    assert "aten.conv2d.default" not in targets


def test_bfloat16_is_computed_by_pytorchs_own_layers():
    layer = nn.Linear(3, 4)
    shape = FeatureShape(channels=4, height=2, width=2, prefix_tokens=None)
    backbone = NetworkBackbone(
        "one",
        nn.Sequential(layer),
        layers={"layer0": shape},
        preprocessing=Preprocessing(2, 2, "bilinear", (0.0,) * 3, (1.0,) * 3),
        compute=lambda images, names: {
            "layer0": layer(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        },
    ).in_precision("bfloat16")
    with torch.profiler.profile() as profile:
        backbone.features(torch.zeros(16, 3, 2, 2, dtype=torch.uint8), ["layer0"])
    assert "aten::linear" in {event.name for event in profile.events()}
