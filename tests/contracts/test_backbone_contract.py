"""What every backbone must obey; a new one joins by a line in `BACKBONES`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from declip_pipeline.backbones.contract import Backbone, Preprocessing
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_VIT = str(GOLDEN / "tiny_vit_openai.pt")
TINY_RN = str(GOLDEN / "tiny_rn_openai.pt")

BACKBONES: dict[str, tuple[str, list[str]]] = {
    "efficientnet-lite0": ("efficientnet-lite0", []),
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
    return open_backbone(arch, weights=weights)


@pytest.fixture(scope="module", params=BACKBONES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(case: str) -> Backbone:
    return open_named(case)


@pytest.fixture(scope="module")
def images(backbone: Backbone) -> torch.Tensor:
    size = (2, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    return torch.randint(
        0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(scope="module")
def features(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return backbone.forward(images, list(backbone.layers))


@contextmanager
def counted_modules(calls: list[str]) -> Iterator[None]:
    def count(module: torch.nn.Module, *_: object) -> None:
        calls.append(type(module).__name__)

    handle = register_module_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


def test_features_have_the_shapes_that_layers_promise(
    backbone: Backbone, features: dict[str, torch.Tensor]
) -> None:
    assert list(features) == list(backbone.layers)
    for layer, shape in backbone.layers.items():
        assert isinstance(shape, FeatureShape)
        assert tuple(features[layer].shape) == (2, *shape.array_shape)


def test_features_are_finite_float32_that_differ_between_pictures(
    features: dict[str, torch.Tensor],
) -> None:
    for values in features.values():
        assert values.dtype == torch.float32
        assert values.is_contiguous()
        assert torch.isfinite(values).all()
        assert not torch.equal(values[0], values[1])


def test_bytes_and_floats_agree(
    backbone: Backbone, images: torch.Tensor, features: dict[str, torch.Tensor]
) -> None:
    again = backbone.forward(images.float() / 255, list(backbone.layers))
    for layer, values in features.items():
        assert torch.equal(again[layer], values)


def test_order_and_repeats_of_the_asked_layers_do_not_matter(
    backbone: Backbone, images: torch.Tensor, features: dict[str, torch.Tensor]
) -> None:
    names = list(backbone.layers)
    first, last = names[0], names[-1]
    some = backbone.forward(images, [last, first, last])
    assert list(some) == list(dict.fromkeys([first, last]))
    assert torch.equal(some[first], features[first])
    assert torch.equal(some[last], features[last])


def test_no_layers_give_no_features(backbone: Backbone, images: torch.Tensor) -> None:
    assert backbone.forward(images, []) == {}


def test_a_picture_does_not_depend_on_its_batch(
    backbone: Backbone, images: torch.Tensor, features: dict[str, torch.Tensor]
) -> None:
    alone = backbone.forward(images[1:], list(backbone.layers))
    for layer, values in features.items():
        scale = float(values.abs().max())
        torch.testing.assert_close(alone[layer][0], values[1], rtol=0, atol=2e-5 * scale)


def test_only_as_deep_as_the_deepest_asked_layer(backbone: Backbone, images: torch.Tensor) -> None:
    depths = []
    for layer in backbone.layers:
        calls: list[str] = []
        with counted_modules(calls):
            backbone.forward(images[:1], [layer])
        depths.append(len(calls))
    assert depths == sorted(set(depths))


def test_weights_are_frozen_and_no_graph_is_kept(
    backbone: Backbone, features: dict[str, torch.Tensor]
) -> None:
    parts = getattr(backbone, "parts", [backbone])
    for part in parts:
        assert not part.tower.network.training
        assert not any(weight.requires_grad for weight in part.tower.network.parameters())
    for values in features.values():
        assert not values.requires_grad
        assert values.grad_fn is None


def test_opened_again_it_is_the_same(
    case: str, backbone: Backbone, images: torch.Tensor, features: dict[str, torch.Tensor]
) -> None:
    again = open_named(case)
    assert again.name == backbone.name
    assert again.layers == backbone.layers
    assert again.preprocessing == backbone.preprocessing
    assert again.weights_sha256 == backbone.weights_sha256
    assert len(again.weights_sha256) == 64
    layer = next(iter(backbone.layers))
    assert torch.equal(again.forward(images, [layer])[layer], features[layer])


def test_preprocessing_survives_json(backbone: Backbone) -> None:
    assert Preprocessing.from_json(backbone.preprocessing.to_json()) == backbone.preprocessing


def test_unknown_layer_is_named_with_the_known_ones(
    backbone: Backbone, images: torch.Tensor
) -> None:
    first = next(iter(backbone.layers))
    with pytest.raises(UnknownNameError, match=f"unknown layer 'layer99'; .*known: {first}"):
        backbone.forward(images, ["layer99"])


def test_images_of_another_size_are_refused(backbone: Backbone, images: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"images of shape \(2, 3, 8, 8\); .* resize them first"):
        backbone.forward(images[:, :, :8, :8], list(backbone.layers))


def test_images_of_another_type_are_refused(backbone: Backbone, images: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"images of type torch.int64; expected uint8 0..255"):
        backbone.forward(images.long(), list(backbone.layers))
