"""What every decoder obeys, on every kind of layer a backbone has."""

import re

import pytest
import torch

from declip_pipeline.decoders import DECODER_TYPES, Decoder, build_decoder, initialize
from declip_pipeline.decoders.building import PATCH_FORENSICS
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

NARROW = (8, 8, 8, 8)
SHAPES = {
    "tokens": FeatureShape(128, 5, 5, prefix_tokens=1),
    "tokens, not square": FeatureShape(24, 4, 6, prefix_tokens=1),
    "tokens of 16x16": FeatureShape(8, 16, 16, prefix_tokens=1),
    "registers": FeatureShape(64, 6, 6, prefix_tokens=5),
    "no class token": FeatureShape(64, 6, 6, prefix_tokens=0),
    "lite0 layer0": FeatureShape(16, 112, 112),
    "lite0 layer1": FeatureShape(24, 56, 56),
    "lite0 layer2": FeatureShape(40, 28, 28),
    "lite0 layer3": FeatureShape(112, 14, 14),
    "lite0 layer4": FeatureShape(320, 7, 7),
    "resnet layer1": FeatureShape(32, 56, 56),
}
# What a decoder that is a whole network sees.
PIXELS = {
    "pixels": FeatureShape(3, 64, 64),
    "pixels, not square": FeatureShape(3, 75, 48),
}
SMALL = ("tokens", "tokens of 16x16", "registers", "lite0 layer2", "lite0 layer4")


def cases(names: tuple[str, ...]) -> list:
    """Every type of decoder with every shape of these names, and linear on ViT-L/14's tokens.

    The type that sees pixels has shapes of its own.
    """
    shapes = {name: SHAPES[name] for name in names}
    pairs = [
        (kind, name, shape)
        for kind in DECODER_TYPES
        for name, shape in (PIXELS if kind == PATCH_FORENSICS else shapes).items()
    ]
    large = pytest.param("linear", FeatureShape(1024, 16, 16, 1), id="linear, ViT-L/14")
    return [pytest.param(kind, shape, id=f"{kind}, {name}") for kind, name, shape in pairs] + [
        large
    ]


every_decoder = pytest.mark.parametrize(("decoder_type", "shape"), cases(tuple(SHAPES)))
every_decoder_on_small_layers = pytest.mark.parametrize(("decoder_type", "shape"), cases(SMALL))


def build(decoder_type: str, shape: FeatureShape, output_size: int = 64) -> Decoder:
    """A decoder, narrow and with a small map to be quick, whose answer depends on its input.

    With PyTorch's initial weights and untrained BatchNorm, twenty convolutions shrink their input
    below rounding: maps would be equal whatever goes in. Kaiming's scale carries it through.
    """
    widths = NARROW if decoder_type.startswith("conv") else None
    decoder = build_decoder(decoder_type, shape, widths=widths, output_size=output_size)
    generator = torch.Generator().manual_seed(1)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    return decoder


def random_features(shape: FeatureShape, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape.array_shape, generator=torch.Generator().manual_seed(2))


@every_decoder
def test_map_is_256x256(decoder_type: str, shape: FeatureShape) -> None:
    decoder = build(decoder_type, shape, output_size=256).eval()
    assert (decoder.decoder_type, decoder.shape, decoder.output_size) == (decoder_type, shape, 256)
    with torch.inference_mode():
        logits = decoder(random_features(shape))
    assert logits.shape == (2, 256, 256)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@every_decoder
def test_gradients_reach_every_parameter(decoder_type: str, shape: FeatureShape) -> None:
    decoder = build(decoder_type, shape).train()
    logits = decoder(random_features(shape))
    assert logits.shape == (2, 64, 64)
    (logits**2).mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_decoder_on_small_layers
def test_evaluation_does_not_depend_on_the_batch(decoder_type: str, shape: FeatureShape) -> None:
    decoder = build(decoder_type, shape).eval()
    features = random_features(shape, count=3)
    with torch.inference_mode():
        together = decoder(features)
        alone = decoder(features[1:2])
        again = decoder(features)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-4)
    assert torch.equal(together, again)
    assert (together[0] - together[1]).abs().max() > 1e-3


@every_decoder_on_small_layers
def test_state_dict_round_trip(decoder_type: str, shape: FeatureShape) -> None:
    one = build(decoder_type, shape).eval()
    widths = NARROW if decoder_type.startswith("conv") else None
    other = build_decoder(decoder_type, shape, widths=widths, output_size=64).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    features = random_features(shape)
    with torch.inference_mode():
        assert torch.equal(one(features), other(features))


@every_decoder_on_small_layers
def test_stored_half_precision_is_read(decoder_type: str, shape: FeatureShape) -> None:
    decoder = build(decoder_type, shape).eval()
    stored = random_features(shape).half()
    with torch.inference_mode():
        logits = decoder(stored)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, decoder(stored.float()))


@every_decoder_on_small_layers
@pytest.mark.parametrize("scheme", ["paper", "pytorch"])
def test_initial_weights_depend_on_the_seed_alone(
    decoder_type: str, shape: FeatureShape, scheme: str
) -> None:
    one, other = build(decoder_type, shape), build(decoder_type, shape)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    initialize(one, scheme, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    initialize(other, scheme, seed=7)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    initialize(other, scheme, seed=8)
    assert not torch.equal(one.state_dict()["fc.0.weight"], other.state_dict()["fc.0.weight"])


@pytest.mark.parametrize("decoder_type", ["linear", "conv-4", "conv-12", "conv-20"])
@pytest.mark.parametrize("name", ["tokens", "tokens of 16x16", "registers"])
def test_prefix_tokens_stay_out_of_the_map(decoder_type: str, name: str) -> None:
    shape = SHAPES[name]
    decoder = build(decoder_type, shape).eval()
    features = random_features(shape)
    changed = features.clone()
    changed[:, : shape.prefix_tokens] = 1e3
    with torch.inference_mode():
        expected = decoder(features)
        assert torch.equal(decoder(changed), expected)
        changed[:, -1] += 1
        assert not torch.equal(decoder(changed), expected)


@pytest.mark.parametrize("name", ["tokens", "registers"])
def test_attention_leaves_prefix_tokens_out_of_the_map(name: str) -> None:
    """With nothing exchanged between tokens, only the positions' own logits are left."""
    shape = SHAPES[name]
    decoder = build("attention", shape).eval()
    with torch.no_grad():
        for block in (decoder.att1, decoder.att2):
            block.attn.out_proj.weight.zero_()
    features = random_features(shape)
    changed = features.clone()
    changed[:, : shape.prefix_tokens] = 1e3
    with torch.inference_mode():
        assert torch.equal(decoder(features), decoder(changed))


@every_decoder
def test_features_of_another_shape_are_refused(decoder_type: str, shape: FeatureShape) -> None:
    decoder = build(decoder_type, shape)
    expected = ", ".join(map(str, shape.array_shape))
    right = shape.array_shape
    for wrong in [(2, right[0] + 1, *right[1:]), (2, *right[:-1], right[-1] + 1), right]:
        message = re.escape(
            f"{decoder_type} decoder got features of shape {wrong}, expected (N, {expected}); "
            "give it the layer it was built for"
        )
        with pytest.raises(InputError, match=message):
            decoder(torch.zeros(wrong))


@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
def test_integers_are_refused(decoder_type: str) -> None:
    shape = PIXELS["pixels"] if decoder_type == PATCH_FORENSICS else SHAPES["tokens"]
    with pytest.raises(InputError, match=r"dtype torch\.int8, expected floating point"):
        build(decoder_type, shape)(torch.zeros(2, *shape.array_shape, dtype=torch.int8))
