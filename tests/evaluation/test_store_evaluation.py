"""Evaluation from a store equals evaluation picture by picture."""

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.initialization import initialize
from declip_pipeline.evaluation.localization import (
    ImageResult,
    by_generator,
    evaluate_localization,
    mean_figures,
)
from declip_pipeline.evaluation.maps import probability_maps
from declip_pipeline.evaluation.validation import Judged, validation_ious
from declip_pipeline.feeding.feature_source import FeatureSource
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.metrics.localization import localization_metrics


@pytest.fixture(scope="module")
def decoder(tiny_store):
    decoder = build_decoder("linear", tiny_store.layers["layer2"])
    initialize(decoder, "pytorch", seed=1)
    return decoder


def test_results_come_in_row_order_at_native_size(tiny_store, decoder, cpu):
    rows = tiny_store.fake_rows("train")[::-1].copy()
    told = []
    results = evaluate_localization(
        decoder,
        tiny_store,
        [FeatureSource("layer2")],
        rows,
        device=cpu,
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (8, 8)
    assert [result.id for result in results] == [tiny_store.samples[row].id for row in rows]
    for row, result in zip(rows, results, strict=True):
        features = tiny_store.read_layer("layer2", np.asarray([row])).decoded()
        with torch.inference_mode():
            maps = probability_maps(decoder(features), *tiny_store.sizes[row].tolist())
        masks = torch.from_numpy(tiny_store.read_masks(np.asarray([row])))
        for name, value in localization_metrics(maps, masks).items():
            assert getattr(result, name) == pytest.approx(value.item(), abs=1e-6)
        assert result.score == pytest.approx(maps.mean().item(), abs=1e-6)
        assert result.fake_share == pytest.approx((maps > 0.5).double().mean().item(), abs=1e-6)


def test_validation_iou_is_the_mean_over_pictures(tiny_store, decoder, cpu):
    rows = tiny_store.fake_rows("valid")
    source = FeatureSource("layer2")

    def iou(rows, batch_size, piece_size=None):
        judged = Judged(decoder, lambda inputs: decoder(*inputs), [source], piece_size)
        feed = Feed([(tiny_store, rows)], [source], device=cpu)
        (value,) = validation_ious([judged], feed, batch_size)
        return value

    single = [iou(rows[[n]], 1) for n in range(len(rows))]
    assert len(single) == 3
    assert iou(rows, 2) == pytest.approx(np.mean(single), abs=1e-6)
    assert iou(rows, 3, 2) == pytest.approx(np.mean(single), abs=1e-6)


def test_maps_are_sigmoid_then_resize():
    logits = torch.tensor([[[-4.0, 4.0], [0.0, 2.0]]])
    assert torch.equal(probability_maps(logits, 2, 2), torch.sigmoid(logits))
    larger = probability_maps(logits, 4, 4)
    # Corner pixels lie beyond the centres of the outer logits, where bilinear holds the value.
    assert larger[0, 0, 0] == pytest.approx(torch.sigmoid(logits[0, 0, 0]).item())
    middle = torch.sigmoid(logits).mean().item()
    assert larger[0, 1:3, 1:3].mean().item() == pytest.approx(middle)


def image(generator, iou, has_fake=True):
    return ImageResult("id", "test", generator, has_fake, iou, 0.5, 0.25, 0.75, 0.1, 0.2)


def test_pictures_without_a_fake_pixel_are_counted_apart():
    results = [image("b", 40.0), image("a", 80.0), image("a", 0.0, has_fake=False)]
    assert mean_figures(results) == {
        "images": 2,
        "images_without_fake": 1,
        "iou": 60.0,
        "f1_best": 0.5,
        "f1_fixed": 0.25,
        "ap": 0.75,
    }
    assert list(by_generator(results)) == ["a", "b"]
    assert mean_figures(results[2:])["iou"] is None
