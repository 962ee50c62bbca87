"""Contract of every built-in backbone, and of backbones of one's own; a line adds one."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from declip_pipeline.backbones.backbone import Backbone, Preprocessing
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.testing.backbones import BackboneContract

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_VIT = str(GOLDEN / "tiny_vit_openai.pt")
TINY_RN = str(GOLDEN / "tiny_rn_openai.pt")

BACKBONES: dict[str, tuple[str, list[str]]] = {
    "efficientnet-lite0": ("efficientnet-lite0", []),
    "DINOv2": ("dinov2-vit-s14", []),
    "tiny ViT": ("CLIP:from-file", [TINY_VIT]),
    "tiny ResNet": ("CLIP:from-file", [TINY_RN]),
    "fusion": ("CLIP:from-file,CLIP:from-file", [TINY_VIT, TINY_RN]),
    "fusion of timm's": ("timm:test_vit,timm:test_resnet", ["random:0", "random:1"]),
    "open_clip ViT": ("ViT-S-32-alt", ["random:0"]),
    "timm ViT": ("timm:test_vit", ["random:0"]),
    "timm ViT without class token": ("timm:test_vit_relpos", ["random:0"]),
    "timm ResNet": ("timm:test_resnet", ["random:0"]),
    "timm ConvNeXt": ("timm:test_convnext", ["random:0"]),
    "pixels": ("pixels:64", []),
}


def open_named(case: str) -> Backbone:
    arch, weights = BACKBONES[case]
    return open_backbone(arch, weights=weights, device="cpu")


@contextmanager
def counted_modules(calls: list[str]) -> Iterator[None]:
    def count(module: torch.nn.Module, *_: object) -> None:
        calls.append(type(module).__name__)

    handle = register_module_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module", params=BACKBONES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(case: str) -> Backbone:
    return open_named(case)


class TestBuiltInBackbones(BackboneContract):
    @pytest.mark.slow
    def test_only_as_deep_as_the_deepest_requested_layer(
        self, backbone: Backbone, images: torch.Tensor
    ) -> None:
        depths = []
        for layer in backbone.layers:
            calls: list[str] = []
            with counted_modules(calls):
                backbone.features(images[:1], [layer])
            depths.append(len(calls))
        assert depths == sorted(set(depths))

    @pytest.mark.slow
    def test_opened_again_it_is_the_same(
        self, case: str, backbone: Backbone, images: torch.Tensor, features: dict[str, torch.Tensor]
    ) -> None:
        again = open_named(case)
        assert again.name == backbone.name
        assert again.layers == backbone.layers
        assert again.preprocessing == backbone.preprocessing
        assert again.weights_sha256 == backbone.weights_sha256
        layer = next(iter(backbone.layers))
        assert torch.equal(again.features(images, [layer])[layer], features[layer])


PREPROCESSING = Preprocessing(32, 48, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class TestNetworkOfOnesOwn(BackboneContract):
    """A backbone of a PyTorch network, with a grid and a sequence of tokens."""

    @pytest.fixture
    def backbone(self) -> Backbone:
        torch.manual_seed(1)
        stem = torch.nn.Conv2d(3, 8, 4, stride=4)
        block = torch.nn.Linear(8, 6)

        def compute(images: torch.Tensor, layers: list[str]) -> dict[str, torch.Tensor]:
            grid = stem(images)
            found = {"grid": grid}
            if "tokens" in layers:
                found["tokens"] = block(grid.flatten(2).transpose(1, 2))
            return found

        return NetworkBackbone(
            "mine",
            torch.nn.ModuleList([stem, block]),
            layers={"grid": FeatureShape(8, 8, 12), "tokens": FeatureShape(6, 8, 12, 0)},
            preprocessing=PREPROCESSING,
            compute=compute,
        )


class Brightness(Backbone):
    """A backbone without a network: the mean of each channel over cells of 16x16 pixels."""

    name = "brightness"
    preprocessing = PREPROCESSING
    layers = {"layer0": FeatureShape(3, 2, 3)}  # noqa: RUF012
    weights_sha256 = hashlib.sha256(b"no weights").hexdigest()

    def features(self, images: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        self.check_images(images)
        values = images.float() / 255 if images.dtype == torch.uint8 else images
        means = torch.nn.functional.avg_pool2d(values, 16)
        return dict.fromkeys(self.in_depth_order(layers), means)


class TestBackboneWithoutNetwork(BackboneContract):
    @pytest.fixture
    def backbone(self) -> Backbone:
        return Brightness()

    def test_what_it_does_not_support_is_refused(self, backbone: Backbone) -> None:
        with pytest.raises(InputError, match="brightness computes on the CPU only; use `device="):
            backbone.to("cuda")
        with pytest.raises(InputError, match="brightness computes in float32 only; use `precis"):
            backbone.in_precision("bfloat16")
        with pytest.raises(DeclipError, match="brightness cannot be compiled"):
            backbone.compile()


def broken(compute) -> NetworkBackbone:
    return NetworkBackbone(
        "mine",
        torch.nn.Identity(),
        layers={"grid": FeatureShape(3, 32, 48)},
        preprocessing=PREPROCESSING,
        compute=compute,
    )


def test_features_of_another_shape_are_refused():
    backbone = broken(lambda images, layers: {"grid": images[:, :2]})
    message = r"mine computes grid of shape \(1, 2, 32, 48\); its `layers` say \(N, 3, 32, 48\)"
    with pytest.raises(DeclipError, match=message):
        backbone.features(torch.rand(1, 3, 32, 48), ["grid"])


def test_a_missing_layer_is_named():
    backbone = broken(lambda images, layers: {"gird": images})
    with pytest.raises(DeclipError, match=r"mine computes no grid, .*function returned gird"):
        backbone.features(torch.rand(1, 3, 32, 48), ["grid"])
