"""Normalization of features: what it computes, and that it is part of a decoder."""

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.file import load_decoder, save_decoder
from declip_pipeline.decoders.normalization import FeatureNormalization
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.testing.decoders import random_features

TOKENS, GRID = FeatureShape(6, 4, 4, prefix_tokens=1), FeatureShape(5, 3, 7)
STATISTICS = [
    (torch.arange(6.0), torch.linspace(0.5, 3, 6)),
    (torch.arange(5.0) - 2, torch.linspace(0.1, 9, 5)),
]


def features() -> list[torch.Tensor]:
    return [3 * random_features(shape) + 1 for shape in (TOKENS, GRID)]


def test_channels_are_standardised_by_their_statistics() -> None:
    normalization = FeatureNormalization([TOKENS, GRID], "channel")
    assert not normalization.is_fitted
    tokens, grid = features()
    assert all(map(torch.equal, normalization([tokens, grid]), (tokens, grid)))
    normalization.fit(STATISTICS, 12)
    assert normalization.is_fitted
    one, other = normalization([tokens, grid])
    (mean, deviation), (mean_of_grid, deviation_of_grid) = (
        [part.numpy() for part in statistics] for statistics in STATISTICS
    )
    np.testing.assert_allclose(one, (tokens.numpy() - mean) / deviation, rtol=1e-6)
    for channel in range(5):
        expected = (grid[:, channel] - mean_of_grid[channel]) / deviation_of_grid[channel]
        np.testing.assert_allclose(other[:, channel], expected, rtol=1e-6)


def test_layernorm_normalizes_each_position() -> None:
    normalization = FeatureNormalization([TOKENS, GRID], "layernorm")
    assert normalization.is_fitted
    assert not normalization.state_dict()
    tokens, grid = features()
    one, other = normalization([tokens, grid])
    np.testing.assert_allclose(one, torch.nn.functional.layer_norm(tokens, (6,)), rtol=0, atol=1e-5)
    expected = torch.nn.functional.layer_norm(grid.permute(0, 2, 3, 1), (5,)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(other, expected, rtol=0, atol=1e-5)


def test_instance_normalizes_each_channel_over_the_positions_of_an_image() -> None:
    normalization = FeatureNormalization([TOKENS, GRID], "instance")
    assert normalization.is_fitted
    assert not normalization.state_dict()
    tokens, grid = features()
    one, other = normalization([tokens, grid])
    np.testing.assert_allclose(other, torch.nn.functional.instance_norm(grid), rtol=0, atol=1e-5)
    patches = tokens[:, 1:].transpose(1, 2)
    expected = torch.nn.functional.instance_norm(patches).transpose(1, 2)
    np.testing.assert_allclose(one[:, 1:], expected, rtol=0, atol=1e-5)
    # The class token is no position, but normalized as these are.
    mean, deviation = tokens[:, 1:].mean(1), tokens[:, 1:].std(1, correction=0)
    np.testing.assert_allclose(one[:, 0], (tokens[:, 0] - mean) / deviation, rtol=1e-4)


def test_instance_does_not_see_what_is_the_same_at_all_positions() -> None:
    normalization = FeatureNormalization([TOKENS, GRID], "instance")
    shifted = [4 * part + 7 for part in features()]
    for one, other in zip(normalization(features()), normalization(shifted), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    constant = [torch.ones_like(part) for part in features()]
    assert all(not part.any() for part in normalization(constant))


@pytest.mark.parametrize("decoder_type", ["linear", "attention", "conv-4", "fcn"])
def test_a_decoder_decodes_normalized_features_of_each_layer(decoder_type: str) -> None:
    widths = (8, 8, 4, 4) if decoder_type == "conv-4" else None
    decoder = build_decoder(decoder_type, [TOKENS, GRID], widths=widths, normalize="channel")
    plain = build_decoder(decoder_type, [TOKENS, GRID], widths=widths)
    for one in (decoder, plain):
        initialize(one, "pytorch", seed=3)
        one.eval()
    assert decoder.normalization is not None
    decoder.normalization.fit(STATISTICS, 12)
    with torch.inference_mode():
        assert torch.equal(decoder(*features()), plain(*decoder.normalization(features())))
        assert not torch.equal(decoder(*features()), plain(*features()))


def test_statistics_are_no_parameters_and_are_kept_in_the_checkpoint(tmp_path) -> None:
    decoder = build_decoder("pup", [TOKENS, GRID], normalize="channel").eval()
    plain = build_decoder("pup", [TOKENS, GRID])
    assert len(list(decoder.parameters())) == len(list(plain.parameters()))
    assert decoder.normalization is not None
    decoder.normalization.fit(STATISTICS, 12)
    initialize(decoder, "paper", seed=1)
    assert decoder.normalization.is_fitted
    save_decoder(tmp_path / "decoder.safetensors", decoder, {})
    loaded, _ = load_decoder(tmp_path / "decoder.safetensors")
    assert loaded.normalization is not None
    assert loaded.normalization.mode == "channel"
    with torch.inference_mode():
        assert torch.equal(loaded(*features()), decoder(*features()))


def test_another_name_is_refused() -> None:
    message = "unknown normalization 'batch'; known: none, channel, instance, layernorm"
    with pytest.raises(UnknownNameError, match=message):
        build_decoder("linear", TOKENS, normalize="batch")
