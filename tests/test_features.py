"""Features read back from every dtype are within its rounding error."""

from typing import get_args

import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.features import (
    FEATURE_DTYPES,
    FeatureShape,
    StoredFeatures,
    encode_features,
    feature_dtype,
    rounded_features,
)
from declip_pipeline.options import DtypeName

TOKENS = FeatureShape(8, 3, 3, 1)
GRID = FeatureShape(6, 4, 5)


def features(shape, seed=0):
    """Channels and tokens of very different sizes, as a network's are."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, *shape.array_shape, generator=generator)
    return values * torch.logspace(-2, 2, values.shape[1])[None, :].reshape(
        1, -1, *[1] * (values.ndim - 2)
    )


def test_the_names_of_dtypes_are_those_of_the_options():
    assert tuple(FEATURE_DTYPES) == get_args(DtypeName)


@pytest.mark.parametrize("shape", [TOKENS, GRID], ids=["tokens", "grid"])
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_the_error_is_bounded(dtype, shape):
    values = features(shape)
    encoded = encode_features(values, dtype, is_grid=shape.is_grid)
    kind = FEATURE_DTYPES[dtype]
    assert encoded.as_arrays("values", "scales")["values"].dtype == kind.stored
    error = (encoded.decoded() - values).abs()
    if kind.scale_per is None:
        assert encoded.scales is None
        relative = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0}[dtype]
        assert (error <= relative * values.abs() + 1e-7).all()
        return
    assert encoded.scales.shape[1:] == kind.scale_shape(shape)
    # Half a step, of 127 from zero to the largest, and the rounding of the scale itself.
    steps = (error / encoded.scales.float()).max()
    assert steps <= 0.5 + 127 * 2**-11
    axes = [a for a, side in enumerate(encoded.scales.shape) if side == 1 and a]
    peak = values.abs().amax(axes, keepdim=True)
    assert (error <= peak / 127 * 0.57).all()


def test_scales_are_shared_within_a_token_or_a_channel():
    assert FEATURE_DTYPES["int8"].scale_shape(TOKENS) == (10, 1)
    assert FEATURE_DTYPES["int8"].scale_shape(GRID) == (1, 4, 5)
    assert FEATURE_DTYPES["int8-per-channel"].scale_shape(TOKENS) == (1, 8)
    assert FEATURE_DTYPES["int8-per-channel"].scale_shape(GRID) == (6, 1, 1)
    assert FEATURE_DTYPES["float16"].scale_shape(GRID) is None


def test_one_large_token_does_not_spoil_the_others():
    values = torch.ones(1, *TOKENS.array_shape)
    values[0, 4] = 1000
    per_token = rounded_features(values, "int8", is_grid=False)
    assert (per_token[0, :4] - 1).abs().max() < 1e-3
    per_channel = rounded_features(values, "int8-per-channel", is_grid=False)
    assert per_channel[0, 0].abs().max() == 0, "a step of 1000 / 127 cannot hold a 1"


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_zeros_stay_zeros_and_rounding_twice_changes_nothing(dtype):
    zeros = torch.zeros(2, *GRID.array_shape)
    assert not rounded_features(zeros, dtype, is_grid=True).any()
    once = rounded_features(features(GRID), dtype, is_grid=True)
    again = rounded_features(once, dtype, is_grid=True)
    torch.testing.assert_close(again, once, rtol=2e-3, atol=1e-6)


def test_bfloat16_is_kept_as_its_bits():
    encoded = encode_features(torch.tensor([[[1.0, -2.0]]]), "bfloat16", is_grid=False)
    bits = encoded.as_arrays("values", "scales")["values"]
    assert bits.flatten().tolist() == [0x3F80, 0xC000]
    back = StoredFeatures.from_arrays("bfloat16", bits)
    assert back.decoded().flatten().tolist() == [1.0, -2.0]


def test_an_unknown_dtype_lists_the_known():
    with pytest.raises(InputError, match=r"'int4' is not known; expected one of float16, bfloat16"):
        feature_dtype("int4")


@pytest.mark.parametrize("dtype", ["int8", "int8-per-channel"])
@pytest.mark.parametrize("peak", [1e-2, 1e-4, 1e-6, 1e-30, 8.4e6, 1e30])
def test_int8_keeps_its_precision_at_every_magnitude(dtype, peak):
    features = torch.linspace(-1, 1, 256).reshape(1, 16, 16) * peak
    found = rounded_features(features, dtype, is_grid=False)
    steps = (found - features).abs() / (features.abs().max() / 127)
    assert steps.max() <= 0.51
