"""The pipeline around the backbone gives what the backbone alone does, on any device."""

import numpy as np
import pytest
import torch
from conftest import TINY_VIT

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.extraction.feature_computing import FeatureComputer
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.feature_dtype import FEATURE_DTYPES, encode_features
from declip_pipeline.store.format import layer_key, scales_key

BATCHES = 12


@pytest.fixture(scope="module")
def backbone(device):
    return open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device=str(device))


def pictures(seed, count=3):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_batches_that_overlap_are_what_each_gives_alone(backbone, dtype):
    layers = list(backbone.layers)
    computer = FeatureComputer(backbone, dtype, StageTimes())
    # All are under way before the first is looked at, as when the disk is slow.
    batches = [computer.compute(pictures(seed), layers) for seed in range(BATCHES)]
    computer.finish()
    for seed, batch in enumerate(batches):
        stacked = torch.from_numpy(np.stack(pictures(seed))).permute(0, 3, 1, 2)
        for layer, features in backbone.forward(stacked, layers).items():
            encoded = encode_features(features, dtype, is_grid=backbone.layers[layer].is_grid)
            expected = encoded.as_arrays(layer_key(layer), scales_key(layer))
            for row in range(3):
                for name, array in batch.row_arrays(row, layer).items():
                    stored = expected[name][row]
                    np.testing.assert_array_equal(array, stored)


def test_features_on_the_device_equal_those_of_the_processor(backbone, tolerance):
    reference = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)])
    batch = torch.from_numpy(np.stack(pictures(0))).permute(0, 3, 1, 2)
    expected = reference.forward(batch, list(reference.layers))
    for layer, features in backbone.forward(batch, list(backbone.layers)).items():
        torch.testing.assert_close(features.cpu(), expected[layer], rtol=0, atol=tolerance)


def test_every_stage_of_computing_is_measured(backbone):
    times = StageTimes()
    computer = FeatureComputer(backbone, "float16", times)
    computer.compute(pictures(0), ["layer3"]).row_arrays(0, "layer3")
    computer.finish()
    assert all(times.seconds[stage] > 0 for stage in ("copy", "forward", "encode"))
    assert times.take()["forward"] > 0
    assert not any(times.seconds.values())
