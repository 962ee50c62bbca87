"""Tests that every decoder passes, for decoders of one's own as for the built-in ones."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.factories import DecoderFactory
from declip_pipeline.decoders.file import load_decoder, save_decoder
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

VIT, RESNET = FeatureShape(64, 6, 6, prefix_tokens=1), FeatureShape(24, 7, 7)


class DecoderContract:
    """Tests of the contract of `DecoderFactory`, run by pytest in a subclass.

        class TestMyDecoder(DecoderContract):
            decoder = MyDecoder
            shapes = {"ViT-S/14": FeatureShape(384, 16, 16, prefix_tokens=1)}

    Attributes:
        decoder: The factory, or the name of a decoder type.
        options: Keywords of the factory.
        shapes: Shapes of layers to test it with, by name; by default a small sequence of tokens
            and a small grid. Leave out those that the decoder is not made for.
    """

    decoder: ClassVar[Any]
    options: ClassVar[Mapping[str, Any]] = {}
    shapes: ClassVar[Mapping[str, FeatureShape]] = {"tokens": VIT, "grid": RESNET}

    def build(self, shape: FeatureShape) -> Decoder:
        """Build the decoder for a shape; override it to pass `build_decoder` other arguments."""
        # A function in the body of a class would be bound to the instance.
        factory: Any = inspect.getattr_static(type(self), "decoder")
        if isinstance(factory, staticmethod):
            factory = factory.__func__
        named: str | DecoderFactory = factory
        return build_decoder(named, shape, options=self.options)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test that takes a shape with each of `shapes`."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", list(self.shapes.values()), ids=list(self.shapes))

    def test_returns_finite_logits_of_its_output_size(self, shape: FeatureShape) -> None:
        decoder = self.varied(shape).eval()
        size = decoder.output_size
        with torch.inference_mode():
            for count in (1, 3):
                logits = decoder(random_features(shape, count))
                assert logits.shape == (count, size, size)
                assert logits.dtype == torch.float32
                assert logits.isfinite().all()

    def test_gradients_reach_every_trained_parameter(self, shape: FeatureShape) -> None:
        decoder = self.varied(shape).train()
        (decoder(random_features(shape)) ** 2).mean().backward()
        for name, parameter in decoder.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} does not bear on the logits"
                assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
                assert parameter.grad.any(), f"the gradient of {name} is zero"

    def test_evaluation_does_not_depend_on_the_batch(self, shape: FeatureShape) -> None:
        decoder = self.varied(shape).eval()
        features = random_features(shape, 3)
        with torch.inference_mode():
            together, again, alone = decoder(features), decoder(features), decoder(features[1:2])
        assert torch.equal(together, again), "the same features give different maps"
        torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)
        assert (together[0] - together[1]).abs().max() > 1e-5, "maps do not depend on the features"

    def test_stored_half_precision_is_read(self, shape: FeatureShape) -> None:
        decoder = self.varied(shape).eval()
        stored = random_features(shape).half()
        with torch.inference_mode():
            assert torch.equal(decoder(stored), decoder(stored.float()))

    def test_initial_weights_depend_on_the_seed_alone(self, shape: FeatureShape) -> None:
        one, other = self.build(shape), self.build(shape)
        before = torch.random.get_rng_state()
        initialize(one, "paper", seed=7)
        assert torch.equal(torch.random.get_rng_state(), before), "the global random state changed"
        torch.rand(1)
        initialize(other, "paper", seed=7)
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        initialize(other, "paper", seed=8)
        changed = other.state_dict()
        assert any(
            not torch.equal(value, changed[name]) for name, value in one.state_dict().items()
        )

    def test_checkpoint_gives_the_same_decoder_back(
        self, shape: FeatureShape, tmp_path: Path
    ) -> None:
        decoder = self.varied(shape).eval()
        save_decoder(tmp_path / "decoder.safetensors", decoder, {"shape": shape.to_json()})
        loaded, _ = load_decoder(tmp_path / "decoder.safetensors")
        features = random_features(shape)
        with torch.inference_mode():
            assert torch.equal(decoder(features), loaded(features))

    def test_features_of_another_shape_are_refused(self, shape: FeatureShape) -> None:
        decoder = self.build(shape)
        right = shape.array_shape
        expected = re.escape(f"expected (N, {', '.join(map(str, right))}); give it the layer")
        for wrong in [(2, right[0] + 1, *right[1:]), (2, *right[:-1], right[-1] + 1), right]:
            assert re.search(expected, refusal(decoder, torch.zeros(wrong)))

    def test_integers_are_refused(self, shape: FeatureShape) -> None:
        features = torch.zeros(2, *shape.array_shape, dtype=torch.int8)
        assert "dtype torch.int8, expected floating point" in refusal(self.build(shape), features)

    def varied(self, shape: FeatureShape) -> Decoder:
        """Build a decoder with weights that carry differences of the input to the output.

        With initial weights, a deep decoder can shrink its input below rounding, or a last layer
        of zeros can hide it. Kaiming's scale does neither.
        """
        decoder = self.build(shape)
        generator = torch.Generator().manual_seed(1)
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        return decoder


def random_features(shape: FeatureShape, count: int = 2) -> torch.Tensor:
    """Return standard normal features (count, *shape.array_shape), the same in every call."""
    return torch.randn(count, *shape.array_shape, generator=torch.Generator().manual_seed(2))


def refusal(decoder: Decoder, features: torch.Tensor) -> str:
    """Return the message of the `InputError` that features are refused with."""
    try:
        decoder(features)
    except InputError as error:
        return str(error)
    raise AssertionError(f"features {tuple(features.shape)} {features.dtype} were not refused")
