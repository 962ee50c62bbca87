"""A feed gives the same batches whether its layer is resident or streamed."""

import numpy as np
import pytest
import torch

from declip_pipeline.compute import permutation
from declip_pipeline.errors import InputError
from declip_pipeline.feeding import feed as feed_module
from declip_pipeline.feeding import tiers
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.feeding.tiers import available_memory, choose_tier

LAYER = FeatureSource("layer2")


@pytest.mark.parametrize("tier", ["device", "memory", "stream"])
def test_batches_are_the_stored_rows_in_the_asked_order(tiny_store, cpu, tier, monkeypatch):
    # Several blocks, the last of them smaller.
    monkeypatch.setattr(feed_module, "ROWS_AT_ONCE", 5)
    train, test = tiny_store.fake_rows("train"), tiny_store.fake_rows("test")
    feed = Feed(
        [(tiny_store, train), (tiny_store, test)],
        [LAYER],
        device=cpu,
        tier=tier,
    )
    # The processor's memory is its device.
    assert feed.tier == ("stream" if tier == "stream" else "memory")
    assert len(feed) == len(train) + len(test) == 12
    rows = np.concatenate([train, test])
    order = permutation(len(feed), 0, "epoch", 1)
    seen = []
    for batch in feed.batches(order, 5):
        expected = tiny_store.read_layer("layer2", rows[batch.positions]).decoded().numpy()
        assert batch.features(LAYER).dtype == batch.targets.dtype == torch.float32
        np.testing.assert_array_equal(batch.features(LAYER).numpy(), expected.astype(np.float32))
        targets = tiny_store.read_targets(rows[batch.positions]) / np.float32(255)
        np.testing.assert_array_equal(batch.targets.numpy(), targets)
        seen.append(len(batch.positions))
    assert seen == [5, 5, 2]


def test_a_feed_of_nothing_is_refused(tiny_store, cpu):
    with pytest.raises(
        InputError, match="no fake image was chosen to be fed; expected at least one"
    ):
        Feed([(tiny_store, np.empty(0, np.int64))], [LAYER], device=cpu)


def test_the_order_of_an_epoch_is_pinned():
    assert permutation(6, 0, "epoch", 1).tolist() == permutation(6, 0, "epoch", 1).tolist()
    assert permutation(50, 0, "epoch", 1).tolist() != permutation(50, 0, "epoch", 2).tolist()
    assert permutation(50, 0, "epoch", 1).tolist() != permutation(50, 1, "epoch", 1).tolist()
    assert sorted(permutation(50, 3, "epoch", 9).tolist()) == list(range(50))


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("float16", "int8"), ("bfloat16",)])
def test_every_tier_gives_the_same_batches(store_in, cpu, dtypes):
    parts = [(store_in(dtype), store_in(dtype).fake_rows("train")[::-1]) for dtype in dtypes]
    order = permutation(8 * len(dtypes), 0, "epoch", 1)
    resident, streamed = (
        list(Feed(parts, [LAYER], device=cpu, tier=tier).batches(order, 3))
        for tier in ("memory", "stream")
    )
    for one, other in zip(resident, streamed, strict=True):
        assert torch.equal(one.features(LAYER), other.features(LAYER))
        assert torch.equal(one.targets, other.targets)
    rows = parts[0][1]
    first = [place for place in range(len(order)) if order[place] < len(rows)]
    fed = torch.cat([batch.features(LAYER) for batch in streamed])[first]
    stored = parts[0][0].read_layer("layer2", rows[order[first]])
    assert torch.equal(fed, stored.decoded())


def test_a_layer_is_kept_where_it_fits(tiny_store, cpu, monkeypatch):
    free = {"device": 1000, "memory": 10_000}
    cuda = torch.device("cuda")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free["device"], 0))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda device: 0)
    monkeypatch.setattr(tiers, "available_memory", lambda: free["memory"])
    assert [choose_tier(needed, cuda) for needed in (500, 501, 5000, 5001)] == [
        "device",
        "memory",
        "memory",
        "stream",
    ]
    assert [choose_tier(needed, cpu) for needed in (500, 5000, 5001)] == [
        "memory",
        "memory",
        "stream",
    ]
    assert choose_tier(10**12, cuda, "device") == "device"
    with pytest.raises(InputError, match="unknown tier 'disk'; known: auto, device, memory"):
        choose_tier(1, cpu, "disk")
    feed = Feed([(tiny_store, tiny_store.fake_rows("train"))], [LAYER], device=cpu)
    assert feed.description == "layer2: 8 images, 0.00 GB, streamed from the store"


def test_a_job_of_a_cluster_counts_its_own_memory(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   800 kB\n")
    assert available_memory(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert available_memory(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("20000\n")
    assert available_memory(tmp_path, tmp_path) == 15_000
