"""The contract of decoders, and what the paper's add to it, on every kind of layer."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.features import FeatureShape
from declip_pipeline.testing.decoders import DecoderContract, random_features

TOKENS = {
    "tokens": FeatureShape(128, 5, 5, prefix_tokens=1),
    "tokens, not square": FeatureShape(24, 4, 6, prefix_tokens=1),
    "tokens of 16x16": FeatureShape(8, 16, 16, prefix_tokens=1),
    "registers": FeatureShape(64, 6, 6, prefix_tokens=5),
    "no class token": FeatureShape(64, 6, 6, prefix_tokens=0),
}
GRIDS = {
    "lite0 layer2": FeatureShape(40, 28, 28),
    "lite0 layer3": FeatureShape(112, 14, 14),
    "lite0 layer4": FeatureShape(320, 7, 7),
}
LARGE = {
    "lite0 layer0": FeatureShape(16, 112, 112),
    "lite0 layer1": FeatureShape(24, 56, 56),
    "resnet layer1": FeatureShape(32, 56, 56),
    "ViT-L/14": FeatureShape(1024, 16, 16, prefix_tokens=1),
}


class BuiltIn(DecoderContract):
    """With a small map, to be quick; what the map's own size changes is tested apart."""

    shapes = TOKENS | GRIDS
    large = LARGE
    widths: tuple[int, ...] | None = None

    def build(self, shape: FeatureShape, output_size: int = 64) -> Decoder:
        return build_decoder(self.decoder, shape, widths=self.widths, output_size=output_size)

    def test_is_what_was_asked_for_on_large_layers(self) -> None:
        for shape in self.large.values():
            decoder = self.build(shape, output_size=256).eval()
            assert (decoder.decoder_type, decoder.shape) == (self.decoder, shape)
            with torch.inference_mode():
                logits = decoder(random_features(shape))
            assert logits.shape == (2, 256, 256)
            assert logits.isfinite().all()


class TestLinear(BuiltIn):
    decoder = "linear"


class TestAttention(BuiltIn):
    decoder = "attention"

    @pytest.mark.parametrize("name", ["tokens", "registers"])
    def test_prefix_tokens_stay_out_of_the_map(self, name: str) -> None:
        """With nothing exchanged between tokens, only the positions' own logits are left."""
        shape = TOKENS[name]
        decoder = self.varied(shape).eval()
        with torch.no_grad():
            for block in (decoder.att1, decoder.att2):
                block.attn.out_proj.weight.zero_()
        features = random_features(shape)
        changed = features.clone()
        changed[:, : shape.prefix_tokens] = 1e3
        with torch.inference_mode():
            assert torch.equal(decoder(features), decoder(changed))


class TestConv4(BuiltIn):
    decoder = "conv-4"
    widths = (8, 8, 8, 8)


class TestConv12(TestConv4):
    decoder = "conv-12"


class TestConv20(TestConv4):
    decoder = "conv-20"


class Light(BuiltIn):
    """As used: standardised features, and images of other sizes and sides."""

    shapes: ClassVar = TOKENS | GRIDS | {"grid, not square": FeatureShape(12, 5, 9)}
    large = LARGE | {
        "DINOv2 ViT-S/14 at 448": FeatureShape(384, 32, 32, prefix_tokens=1),
        "DINOv2 ViT-S/14 at 448x672": FeatureShape(384, 32, 48, prefix_tokens=1),
    }

    def build(self, shape: FeatureShape, output_size: int = 64) -> Decoder:
        return build_decoder(self.decoder, shape, normalize="channel", output_size=output_size)


class TestMLP(Light):
    decoder = "mlp"


class TestFCN(Light):
    decoder = "fcn"


class TestPUP(Light):
    decoder = "pup"


class TestPatchForensics(BuiltIn):
    """A whole network, which sees pixels."""

    decoder = "patch-forensics"
    shapes: ClassVar = {
        "pixels": FeatureShape(3, 64, 64),
        "pixels, not square": FeatureShape(3, 75, 48),
    }
    large = shapes


class Mean(nn.Module):
    """A decoder of one's own: two layers on each position, then the nearest position."""

    def __init__(self, shape: FeatureShape, *, hidden: int = 8) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Linear(shape.channels, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.shape.is_grid:
            features = features.flatten(2).transpose(1, 2)
        logits = self.layers(features[:, self.shape.prefix_tokens or 0 :])
        grid = logits.reshape(-1, 1, self.shape.height, self.shape.width)
        return nn.functional.interpolate(grid, 256)[:, 0]


class TestClassOfOnesOwn(DecoderContract):
    decoder = Mean
    options: ClassVar = {"hidden": 4}


class TestPartialOfOnesOwn(DecoderContract):
    decoder = partial(Mean, hidden=4)
    shapes = TOKENS


def build_mean(shape: FeatureShape) -> nn.Module:
    return Mean(shape)


class TestFunctionOfOnesOwn(DecoderContract):
    decoder = build_mean


@pytest.mark.parametrize(
    "decoder_type", ["linear", "conv-4", "conv-12", "conv-20", "mlp", "fcn", "pup"]
)
@pytest.mark.parametrize("name", ["tokens", "tokens of 16x16", "registers"])
def test_prefix_tokens_stay_out_of_the_map(decoder_type: str, name: str) -> None:
    shape = TOKENS[name]
    contract = {
        "linear": TestLinear, "conv-4": TestConv4, "conv-12": TestConv12, "conv-20": TestConv20,
        "mlp": TestMLP, "fcn": TestFCN, "pup": TestPUP,
    }  # fmt: skip
    decoder = contract[decoder_type]().varied(shape).eval()
    features = random_features(shape)
    changed = features.clone()
    changed[:, : shape.prefix_tokens] = 1e3
    with torch.inference_mode():
        expected = decoder(features)
        assert torch.equal(decoder(changed), expected)
        changed[:, -1] += 1
        assert not torch.equal(decoder(changed), expected)
