"""Checks of a shard's values and pieces."""

from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3

from declip_pipeline.store.format import RowArray
from declip_pipeline.store.shards import MARK_BYTES, EncodedShard, is_finite

ALL_16_BITS = np.arange(2**16, dtype=np.uint16)
ARRAY = RowArray("layers/layer0", "float16", (1,), (1,), is_compressed=False)


def test_is_finite_of_every_float16():
    values = ALL_16_BITS.view(np.float16)
    found = [is_finite(ARRAY, value) for value in values.reshape(-1, 1)]
    np.testing.assert_array_equal(found, np.isfinite(values))


def test_is_finite_of_every_bfloat16():
    values = (ALL_16_BITS.astype(np.uint32) << 16).view(np.float32)
    array = replace(ARRAY, dtype="uint16")
    found = [is_finite(array, bits) for bits in ALL_16_BITS.reshape(-1, 1)]
    np.testing.assert_array_equal(found, np.isfinite(values))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_one_non_finite_value_among_many_is_found(value, dtype):
    values = np.random.default_rng(0).standard_normal((8, 9, 10)).astype(dtype)
    values[3, 4, 5] = np.finfo(dtype).max
    values[4, 4, 5] = np.finfo(dtype).min
    array = replace(ARRAY, dtype=dtype)
    assert is_finite(array, values)
    values[6, 2, 9] = value
    assert not is_finite(array, values)


def test_integers_are_finite():
    assert is_finite(replace(ARRAY, dtype="int8"), np.full((3, 3), -1, np.int8))


def test_hash_of_a_shard_is_that_of_its_file():
    encoded = EncodedShard(ARRAY, 4, [0, 2], np.ones((2, 1), np.float16), bytes(MARK_BYTES))
    content = b"".join(encoded)
    assert (encoded.size, encoded.blake3) == (len(content), blake3(content).hexdigest())
