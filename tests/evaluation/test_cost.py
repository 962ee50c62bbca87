"""Cost of a run: counted operations against arithmetic, parameters, and measured time."""

import pytest
import torch
from conftest import TINY_VIT

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import multiply_accumulates
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.evaluation import cost as module
from declip_pipeline.evaluation.cost import Cost, CostMeter
from declip_pipeline.features import FeatureShape
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData, sources_beside
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run

VIT_LARGE = FeatureShape(1024, 16, 16, prefix_tokens=1)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr("declip_pipeline.compute.MEASURED_SECONDS", 0.01)


def macs_of_vit(width, depth, patch, side, tokens):
    """Multiply-accumulates of a ViT, as far as the end of a block: what is told in papers."""
    patches = (side // patch) ** 2 * 3 * patch**2 * width
    # Queries, keys, values and projection; the MLP of four times the width; attention.
    block = 4 * tokens * width**2 + 8 * tokens * width**2 + 2 * tokens**2 * width
    return patches + depth * block


def test_a_vit_takes_what_arithmetic_says_as_far_as_its_deepest_layer():
    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu")
    (network,) = backbone.networks
    tokens, width = backbone.layers["layer0"].array_shape
    side, patch = backbone.preprocessing.height, network.conv1.kernel_size[0]
    meter = CostMeter("cpu")
    for depth, layers in ((1, ["layer0"]), (3, ["layer0", "layer2"])):
        found = meter.of_backbone(backbone, layers)
        assert found is not None
        assert found.macs == macs_of_vit(width, depth, patch, side, tokens)
        assert found.parameters == sum(one.numel() for one in network.parameters())
        assert found.milliseconds > 0


@pytest.mark.slow
def test_a_vit_l_14_takes_81_gmac():
    backbone = open_backbone("ViT-L-14", weights=["random:0"], device="cpu")
    image = torch.zeros((1, 3, 224, 224), dtype=torch.uint8)
    # Without the time of a batch, which `CostMeter` measures too.
    macs = multiply_accumulates(lambda: backbone.features(image, ["layer23"]))
    assert macs == macs_of_vit(1024, 24, 14, 224, 257)
    assert round(macs / 1e9, 1) == 81.0
    (network,) = backbone.networks
    assert round(sum(one.numel() for one in network.parameters()) / 1e6) == 304


@pytest.mark.parametrize(
    ("decoder_type", "layers", "millions", "gmacs"),
    [
        ("linear", 1, 0.001, 0.0003),
        ("mlp", 1, 0.03, 0.009),
        ("mlp", 4, 0.14, 0.035),
        ("conv-4", 1, 17.41, 13.5),
    ],
)
def test_a_decoder_takes_what_its_docstring_says(decoder_type, layers, millions, gmacs):
    """Enlarging to the map's size is interpolation, which counts nothing."""
    decoder = build_decoder(decoder_type, [VIT_LARGE] * layers)
    found = CostMeter("cpu").of_decoder(decoder)
    assert found.parameters == sum(one.numel() for one in decoder.parameters())
    assert found.parameters / 1e6 == pytest.approx(millions, rel=0.15)
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=0.15)
    assert found.milliseconds > 0


def test_attention_is_counted():
    width, tokens = 64, 17
    decoder = build_decoder("attention", FeatureShape(width, 4, 4, prefix_tokens=1))
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    assert CostMeter("cpu").of_decoder(decoder).macs == 2 * block + 16 * width


def test_a_run_costs_its_decoder_and_its_backbone(tiny_run):
    found = CostMeter("cpu").of(tiny_run)
    run = Run(tiny_run)
    assert found.decoder.parameters == run.summary()["parameters"]
    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu")
    expected = CostMeter("cpu").of_backbone(backbone, ["layer1"])
    assert found.backbone is not None and expected is not None
    assert (found.backbone.parameters, found.backbone.macs) == (expected.parameters, expected.macs)
    assert found.measured == "cpu, 1 threads, 8 images at once"


def test_runs_that_share_a_backbone_open_it_once(tiny_run, monkeypatch):
    opened = []

    def opens(*arguments):
        opened.append(arguments)
        return original(*arguments)

    original = module._opened
    monkeypatch.setattr(module, "_opened", opens)
    meter = CostMeter("cpu")
    assert meter.of(tiny_run) == meter.of(tiny_run)
    assert len(opened) == 1


def test_a_tile_with_the_whole_view_beside_goes_twice_through_one_network(
    tiled_store, extracted, tmp_path
):
    whole = extracted()
    data = TrainingData(
        [tiled_store],
        beside=sources_beside([(Store(whole.location), "layer2")]),
        device=torch.device("cpu"),
    )
    run = train_run(data, tmp_path, layer="layer1", recipe=Recipe("linear", epochs=1, batch_size=4))
    found = CostMeter("cpu").of(run).backbone
    backbone = open_backbone(
        "CLIP:from-file", weights=[str(TINY_VIT)], image_size=(56, 56), device="cpu"
    )
    parts = [CostMeter("cpu").of_backbone(backbone, [name]) for name in ("layer1", "layer2")]
    assert found is not None
    assert found.macs == sum(part.macs for part in parts if part is not None)
    assert found.parameters == sum(one.numel() for one in backbone.networks[0].parameters())


def test_a_backbone_that_is_no_network_has_no_cost(tiny_backbone, monkeypatch):
    monkeypatch.setattr(type(tiny_backbone), "networks", [])
    assert CostMeter("cpu").of_backbone(tiny_backbone, ["layer1"]) is None


def test_costs_add_up():
    assert Cost(1, 2, 0.5) + Cost(10, 20, 1.0) == Cost(11, 22, 1.5)
