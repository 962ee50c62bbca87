"""Contract test of backbones."""

import pytest
import torch
from torch import Tensor

from declip_pipeline.backbones.backbone import Backbone, Preprocessing
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape


class BackboneContract:
    """Tests that every backbone must pass.

    A subclass, named `Test...`, needs a fixture `backbone`, of its class or its module:

        @pytest.fixture(scope="module")
        def backbone():
            return open_my_backbone(weights=None, device="cpu")

        class TestMyBackbone(BackboneContract):
            pass
    """

    @pytest.fixture
    def images(self, backbone: Backbone) -> Tensor:
        """Two images of noise, (2, 3, height, width) uint8."""
        size = (2, 3, backbone.preprocessing.height, backbone.preprocessing.width)
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)

    @pytest.fixture
    def features(self, backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
        """Features of the two images in all layers."""
        return backbone.features(images, list(backbone.layers))

    def test_identity_names_backbone_weights_and_preprocessing(self, backbone: Backbone) -> None:
        assert isinstance(backbone, Backbone)
        assert backbone.name == backbone.name.strip() != ""
        assert len(backbone.weights_sha256) == 64
        assert int(backbone.weights_sha256, 16) >= 0
        json = backbone.preprocessing.to_json()
        assert Preprocessing.from_json(json) == backbone.preprocessing

    def test_features_have_the_shapes_of_layers(
        self, backbone: Backbone, features: dict[str, Tensor]
    ) -> None:
        assert backbone.layers
        assert list(features) == list(backbone.layers)
        for layer, shape in backbone.layers.items():
            assert isinstance(shape, FeatureShape)
            assert tuple(features[layer].shape) == (2, *shape.array_shape), layer

    def test_features_are_finite_float32_and_differ_between_images(
        self, features: dict[str, Tensor]
    ) -> None:
        for layer, values in features.items():
            assert values.dtype == torch.float32, layer
            assert values.is_contiguous(), layer
            assert torch.isfinite(values).all(), layer
            assert not torch.equal(values[0], values[1]), layer

    def test_features_are_on_the_device_and_detached(
        self, backbone: Backbone, features: dict[str, Tensor]
    ) -> None:
        assert backbone.to(backbone.device) is backbone
        for values in features.values():
            assert values.device.type == backbone.device.type
            assert not values.requires_grad

    def test_networks_are_frozen_and_in_evaluation_mode(self, backbone: Backbone) -> None:
        for network in backbone.networks:
            assert not network.training
            assert not any(weight.requires_grad for weight in network.parameters())

    def test_bytes_and_floats_give_the_same_features(
        self, backbone: Backbone, images: Tensor, features: dict[str, Tensor]
    ) -> None:
        again = backbone.features(images.float() / 255, list(backbone.layers))
        for layer, values in features.items():
            assert torch.equal(again[layer], values), layer

    def test_layers_are_returned_once_and_in_order_of_depth(
        self, backbone: Backbone, images: Tensor, features: dict[str, Tensor]
    ) -> None:
        first, *_, last = [*backbone.layers] * 2
        some = backbone.features(images, [last, first, last])
        assert list(some) == list(dict.fromkeys([first, last]))
        for layer, values in some.items():
            assert torch.equal(values, features[layer]), layer

    def test_no_layers_give_no_features(self, backbone: Backbone, images: Tensor) -> None:
        assert backbone.features(images, []) == {}

    def test_an_image_does_not_depend_on_its_batch(
        self, backbone: Backbone, images: Tensor, features: dict[str, Tensor]
    ) -> None:
        alone = backbone.features(images[1:], list(backbone.layers))
        for layer, values in features.items():
            scale = float(values.abs().max())
            torch.testing.assert_close(alone[layer][0], values[1], rtol=0, atol=2e-5 * scale)

    def test_unknown_layer_is_refused_with_the_known_ones(
        self, backbone: Backbone, images: Tensor
    ) -> None:
        first = next(iter(backbone.layers))
        with pytest.raises(UnknownNameError, match=f"unknown layer 'layer99'; .*known: {first}"):
            backbone.features(images, ["layer99"])

    def test_unknown_precision_is_refused(self, backbone: Backbone) -> None:
        before = backbone.precision
        with pytest.raises(UnknownNameError, match="unknown precision 'float8'"):
            backbone.in_precision("float8")
        assert backbone.in_precision(before) is backbone
        assert backbone.precision == before

    def test_images_of_another_size_are_refused(self, backbone: Backbone, images: Tensor) -> None:
        with pytest.raises(InputError, match=r"images of shape \(2, 3, 8, 8\); .* resize them"):
            backbone.features(images[:, :, :8, :8], list(backbone.layers))

    def test_images_of_another_type_are_refused(self, backbone: Backbone, images: Tensor) -> None:
        with pytest.raises(InputError, match=r"images of type torch.int64; expected uint8 0..255"):
            backbone.features(images.long(), list(backbone.layers))
