"""Validation scores do not depend on batches and pieces."""

import numpy as np
import pytest

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.training.validation import Candidate, validation_ious


def test_validation_iou_is_the_mean_over_images(tiny_store, cpu):
    decoder = build_decoder("linear", tiny_store.layers["layer2"])
    initialize(decoder, "pytorch", seed=1)
    rows = tiny_store.fake_rows("valid")
    source = FeatureSource("layer2")

    def iou(rows, batch_size, piece_size=None):
        candidate = Candidate(decoder, lambda inputs: decoder(*inputs), [source], piece_size)
        feed = Feed([(tiny_store, rows)], [source], device=cpu)
        (value,) = validation_ious([candidate], feed, batch_size)
        return value

    single = [iou(rows[[n]], 1) for n in range(len(rows))]
    assert len(single) == 3
    assert iou(rows, 2) == pytest.approx(np.mean(single), abs=1e-6)
    assert iou(rows, 3, 2) == pytest.approx(np.mean(single), abs=1e-6)
