"""Light decoders: their arithmetic, how they join layers, and their initial weights."""

from pathlib import Path

import pytest
import torch

from declip_pipeline.compute import multiply_accumulates
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.decoders.file import load_decoder, save_decoder
from declip_pipeline.decoders.fusion import as_grid, resampled
from declip_pipeline.decoders.names import LIGHT_TYPES, WIDTHS
from declip_pipeline.features import FeatureShape
from declip_pipeline.testing.decoders import random_features

VIT_LARGE = FeatureShape(1024, 16, 16, prefix_tokens=1)
TOKENS, GRID = FeatureShape(24, 4, 4, prefix_tokens=1), FeatureShape(16, 7, 9)
# Parameters in millions and multiplications in millions an image, as the docstrings say.
ARITHMETIC = {
    ("mlp", 1): (0.03, 9),
    ("mlp", 4): (0.14, 35),
    ("fcn", 1): (1.25, 321),
    ("pup", 1): (0.16, 111),
    ("pup", 4): (0.55, 212),
}


@pytest.mark.parametrize(("decoder_type", "n_layers"), ARITHMETIC)
def test_arithmetic_is_as_the_docstring_says(decoder_type: str, n_layers: int) -> None:
    decoder = build_decoder(decoder_type, [VIT_LARGE] * n_layers).eval()
    assert isinstance(decoder, PositionDecoder)
    features = [random_features(VIT_LARGE, 1)] * n_layers
    with torch.inference_mode():
        counted = multiply_accumulates(lambda: decoder.position_logits(decoder.joined(*features)))
    millions, multiplications = ARITHMETIC[decoder_type, n_layers]
    assert round(sum(one.numel() for one in decoder.parameters()) / 1e6, 2) == millions
    assert round(counted / 1e6) == multiplications
    said = " ".join(str(type(decoder).__doc__).split())
    assert f"{millions} M" in said
    assert f"{multiplications} MMAC" in said
    assert millions <= 1.5
    assert multiplications <= 1000


@pytest.mark.parametrize("decoder_type", ["mlp", "pup"])
def test_projecting_before_resampling_is_resampling_before(decoder_type: str) -> None:
    decoder = build_decoder(decoder_type, [TOKENS, GRID]).eval()
    tokens, grid = random_features(TOKENS), random_features(GRID)
    one, other = decoder.projections
    large = one(resampled(as_grid(tokens, TOKENS), 7, 9))
    parts = torch.cat([large, other(grid)], 1) if decoder_type == "mlp" else large + other(grid)
    torch.testing.assert_close(decoder.joined(tokens, grid), parts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder_type", LIGHT_TYPES)
def test_a_weighted_sum_is_one_layer(decoder_type: str) -> None:
    decoder = build_decoder(decoder_type, [TOKENS, TOKENS], fusion="weighted")
    alone = build_decoder(decoder_type, TOKENS)
    of = {name: value.shape for name, value in decoder.state_dict().items()}
    assert of.pop("fusion.scores") == (2,)
    assert of == {name: value.shape for name, value in alone.state_dict().items()}
    (decoder(*random_features(TOKENS, 4).split(2)) ** 2).mean().backward()
    assert decoder.fusion is not None
    assert decoder.fusion.scores.grad is not None
    assert decoder.fusion.scores.grad.any()


@pytest.mark.parametrize("decoder_type", LIGHT_TYPES)
def test_initial_weights_are_pytorchs_by_every_scheme(decoder_type: str) -> None:
    """The published N(0, 0.02) is of the paper's decoders, and shrinks what is normalized."""
    one, other = (build_decoder(decoder_type, [TOKENS, GRID]) for _ in range(2))
    initialize(one, "paper", seed=5)
    initialize(other, "pytorch", seed=5)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("decoder_type", "widths"), [("mlp", (8,)), ("fcn", (8, 4)), ("pup", (12, 8, 4))]
)
def test_other_widths_are_kept_with_the_decoder(
    decoder_type: str, widths: tuple[int, ...], tmp_path: Path
) -> None:
    own = build_decoder(decoder_type, [TOKENS, GRID])
    assert own.widths == WIDTHS[decoder_type]
    decoder = build_decoder(decoder_type, [TOKENS, GRID], widths=widths).eval()
    assert decoder.widths == widths
    narrow, wide = (sum(one.numel() for one in some.parameters()) for some in (decoder, own))
    assert narrow < wide / 4
    save_decoder(tmp_path / "decoder", decoder, {})
    loaded, _ = load_decoder(tmp_path / "decoder")
    assert loaded.widths == widths
    features = random_features(TOKENS), random_features(GRID)
    with torch.inference_mode():
        assert torch.equal(loaded(*features), decoder(*features))


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        (FeatureShape(8, 16, 16, 1), (64, 64)),
        (FeatureShape(8, 32, 48, 1), (128, 128)),
        (FeatureShape(8, 7, 40), (28, 128)),
        (FeatureShape(8, 150, 7), (150, 28)),
    ],
)
def test_pup_upsamples_fourfold_up_to_half_of_the_map(
    shape: FeatureShape, sides: tuple[int, int]
) -> None:
    decoder = build_decoder("pup", shape).eval()
    assert isinstance(decoder, PositionDecoder)
    with torch.inference_mode():
        logits = decoder.position_logits(decoder.joined(random_features(shape)))
    assert logits.shape == (2, *sides)
