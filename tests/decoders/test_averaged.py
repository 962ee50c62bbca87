"""The mean of several decoders' logits."""

import pytest
import torch

from declip_pipeline.decoders.averaged import (
    AveragedDecoders,
    mean_logits,
    require_averageable,
)
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.pooling import build_pooling
from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.features import FeatureShape

TOKENS = FeatureShape(channels=8, height=4, width=4, prefix_tokens=1)
GRID = FeatureShape(channels=6, height=5, width=5)


def decoder_of(shape, seed, pooling=None):
    decoder = build_decoder("linear", shape)
    initialize(decoder, "pytorch", seed=seed)
    decoder.pooling = None if pooling is None else build_pooling(pooling)
    return decoder


def features_of(*shapes, count=2):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(count, *shape.array_shape, generator=random) for shape in shapes]


def test_each_decoder_takes_its_own_features():
    one, other = decoder_of(TOKENS, 0), decoder_of(GRID, 1)
    both = AveragedDecoders([one, other])
    assert both.input_shapes == (TOKENS, GRID)
    tokens, grid = features_of(TOKENS, GRID)
    with torch.inference_mode():
        logits = both.logits([tokens, grid])
        assert logits.shape == (2, 2, 256, 256)
        assert torch.equal(logits[0], one(tokens)) and torch.equal(logits[1], other(grid))
        assert torch.equal(mean_logits(logits), (one(tokens) + other(grid)) / 2)


def test_a_single_decoder_is_its_own_mean():
    decoder = decoder_of(GRID, 0)
    with torch.inference_mode():
        logits = AveragedDecoders([decoder]).logits(features_of(GRID))
        assert torch.equal(mean_logits(logits), decoder(*features_of(GRID)))


def test_pooled_logits_are_averaged_each_by_its_own_pooling():
    both = AveragedDecoders([decoder_of(GRID, 0, "max"), decoder_of(GRID, 1, "mean")])
    assert (both.task, both.pooling_name) == ("detection", "max+mean")
    logits = torch.tensor([[[[1.0, 3.0]]], [[[2.0, 6.0]]]])
    torch.testing.assert_close(both.pooled(logits), torch.tensor([(3.0 + 4.0) / 2]).double())


def test_the_names_of_poolings():
    assert AveragedDecoders([decoder_of(GRID, 0)]).pooling_name is None
    alike = AveragedDecoders([decoder_of(GRID, seed, "max") for seed in range(2)])
    assert alike.pooling_name == "max"


def test_maps_that_have_no_mean_are_refused_by_the_field():
    one = {"task": "localization", "tiles": "whole images", "output_size": 256}
    require_averageable([one, dict(one)])
    for field, other in (("task", "detection"), ("tiles", "tiles of 56 pixels")):
        with pytest.raises(
            IdentityMismatchError,
            match=f"{field} differs: the first run has '.*', another '{other}'; their maps have no",
        ):
            require_averageable([one, one | {field: other}])
    with pytest.raises(IdentityMismatchError, match="output_size differs: .* has 256, another 64"):
        require_averageable([one, one | {"output_size": 64}])
