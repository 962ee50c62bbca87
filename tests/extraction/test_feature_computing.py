"""The pipeline around the backbone gives what the backbone alone does, on any device."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_VIT
from support.handmade_store import files_of
from support.made_dataset import write_dataset

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import is_out_of_memory
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.extraction.feature_computing import FeatureComputer
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.features import FEATURE_DTYPES, encode_features
from declip_pipeline.store import format as fmt
from declip_pipeline.store.format import layer_key, scales_key
from declip_pipeline.store.reader import Store

BATCHES = 12


@pytest.fixture(scope="module")
def backbone(device):
    return open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device=str(device))


def pictures(seed, count=3):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(count)]


def test_a_cpu_says_that_it_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_batches_that_overlap_are_what_each_gives_alone(backbone, dtype):
    layers = list(backbone.layers)
    computer = FeatureComputer(backbone, dtype, StageTimes())
    # All are under way before the first is looked at, as when the disk is slow.
    batches = [computer.compute(pictures(seed), layers, 3) for seed in range(BATCHES)]
    computer.finish()
    for seed, batch in enumerate(batches):
        stacked = torch.from_numpy(np.stack(pictures(seed))).permute(0, 3, 1, 2)
        for layer, features in backbone.features(stacked, layers).items():
            encoded = encode_features(features, dtype, is_grid=backbone.layers[layer].is_grid)
            expected = encoded.as_arrays(layer_key(layer), scales_key(layer))
            for row in range(3):
                for name, array in batch.row_arrays(row, layer).items():
                    stored = expected[name][row]
                    np.testing.assert_array_equal(array, stored)


def test_features_on_the_device_equal_those_of_the_processor(backbone, tolerance):
    reference = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu")
    batch = torch.from_numpy(np.stack(pictures(0))).permute(0, 3, 1, 2)
    expected = reference.features(batch, list(reference.layers))
    for layer, features in backbone.features(batch, list(backbone.layers)).items():
        torch.testing.assert_close(features.cpu(), expected[layer], rtol=0, atol=tolerance)


def test_every_stage_of_computing_is_measured(backbone):
    times = StageTimes()
    computer = FeatureComputer(backbone, "float16", times)
    computer.compute(pictures(0), ["layer3"], 3).row_arrays(0, "layer3")
    computer.finish()
    assert all(times.seconds[stage] > 0 for stage in ("copy", "forward", "encode"))
    assert times.take()["forward"] > 0
    assert not any(times.seconds.values())


@pytest.mark.slow
def test_a_compiled_backbone_sees_batches_of_one_size(device):
    sizes = []

    def backend(graph, examples):
        sizes.append(len(examples[-1]) if examples[-1].ndim == 4 else None)
        return graph.forward

    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device=str(device))
    plain = FeatureComputer(backbone, "float32", StageTimes())
    expected = [plain.compute(pictures(n, n), ["layer1"], 4) for n in (4, 3, 1)]
    compiled = FeatureComputer(backbone.compile(backend), "float32", StageTimes())
    for n, before in zip((4, 3, 1), expected, strict=True):
        batch = compiled.compute(pictures(n, n), ["layer1"], 4)
        for row in range(n):
            np.testing.assert_allclose(
                batch.row_arrays(row, "layer1")["layers/layer1"],
                before.row_arrays(row, "layer1")["layers/layer1"],
                rtol=1e-4,
                atol=1e-5,
            )
    assert len(sizes) == 1, "compiled once"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (MemoryError("Unable to allocate 9.31 TiB for an array"), True),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_too_little_memory(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.slow
def test_threads_may_fill_shards_of_one_store_at_once(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)
    dataset = write_dataset(tmp_path / "noisy", {"train": 30})
    opened = open_dataset(dataset)
    common = {"layers": ["layer0", "layer3"], "batch_size": 4}
    alone = extract_store(opened, tiny_backbone, root=tmp_path / "one", **common)

    def fill_by_two(filler, *, fill=None, progress):
        pending = filler.writer.pending_shards()
        with ThreadPoolExecutor(2) as threads:
            done = threads.map(lambda shard: list(filler.fill([shard])), pending)
            assert [shard for shards in done for shard in shards] == pending
        filler.writer.finish()

    monkeypatch.setattr("declip_pipeline.extraction.extract.fill_store", fill_by_two)
    both = extract_store(opened, tiny_backbone, root=tmp_path / "two", **common)
    assert files_of(Path(both.location)) == files_of(Path(alone.location))


@pytest.mark.slow
def test_a_store_of_a_compiled_backbone_says_so(shared_dataset, tmp_path):
    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu").compile(
        "eager"
    )
    opened = open_dataset(shared_dataset)
    made = extract_store(opened, backbone, layers=["layer0"], root=tmp_path)
    assert Store(made.location).provenance["compiled"] is True
