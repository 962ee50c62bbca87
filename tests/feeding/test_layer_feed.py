"""A feed gives the same batches whether its layer is resident or streamed."""

import numpy as np
import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.feeding.layer_feed import LayerFeed
from declip_pipeline.seeding import permutation


@pytest.mark.parametrize("resident_bytes", [0, 10**9])
def test_batches_are_the_stored_rows_in_the_asked_order(tiny_store, cpu, resident_bytes):
    train, test = tiny_store.fake_rows("train"), tiny_store.fake_rows("test")
    feed = LayerFeed(
        [(tiny_store, train), (tiny_store, test)],
        "layer2",
        device=cpu,
        resident_bytes=resident_bytes,
    )
    assert feed.is_resident == bool(resident_bytes)
    assert len(feed) == len(train) + len(test) == 12
    rows = np.concatenate([train, test])
    order = permutation(len(feed), 0, "epoch", 1)
    seen = []
    for batch in feed.batches(order, 5):
        expected = tiny_store.read_layer("layer2", rows[batch.positions]).decoded().numpy()
        assert batch.features.dtype == batch.targets.dtype == torch.float32
        np.testing.assert_array_equal(batch.features.numpy(), expected.astype(np.float32))
        targets = tiny_store.read_targets(rows[batch.positions]) / np.float32(255)
        np.testing.assert_array_equal(batch.targets.numpy(), targets)
        seen.append(len(batch.positions))
    assert seen == [5, 5, 2]


def test_a_feed_of_nothing_is_refused(tiny_store, cpu):
    with pytest.raises(
        InputError, match="no fake picture was chosen to be fed; expected at least one"
    ):
        LayerFeed([(tiny_store, np.empty(0, np.int64))], "layer2", device=cpu)


def test_the_order_of_an_epoch_is_pinned():
    assert permutation(6, 0, "epoch", 1).tolist() == permutation(6, 0, "epoch", 1).tolist()
    assert permutation(50, 0, "epoch", 1).tolist() != permutation(50, 0, "epoch", 2).tolist()
    assert permutation(50, 0, "epoch", 1).tolist() != permutation(50, 1, "epoch", 1).tolist()
    assert sorted(permutation(50, 3, "epoch", 9).tolist()) == list(range(50))
