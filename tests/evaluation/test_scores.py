"""Values of images from a store equal those computed image by image."""

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.averaged import AveragedDecoders
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.evaluation import scores
from declip_pipeline.evaluation.scores import localize
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.localization import has_fake, localization_metrics


@pytest.fixture(scope="module")
def decoder(tiny_store):
    decoder = build_decoder("linear", tiny_store.layers["layer2"])
    initialize(decoder, "pytorch", seed=1)
    return decoder


def test_values_come_in_row_order_at_native_size(tiny_store, decoder, cpu):
    rows = tiny_store.fake_rows("train")[::-1].copy()
    told = []
    found = localize(
        AveragedDecoders([decoder]),
        tiny_store,
        [FeatureSource("layer2")],
        rows,
        device=cpu,
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (8, 8)
    for place, row in enumerate(rows):
        features = tiny_store.read_layer("layer2", np.asarray([row])).decoded()
        with torch.inference_mode():
            maps = probability_maps(decoder(features), *tiny_store.sizes[row].tolist())
        masks = torch.from_numpy(tiny_store.read_masks(np.asarray([row])))
        for name, value in localization_metrics(maps, masks).items():
            assert found[name][place] == pytest.approx(value.item(), abs=1e-6)
        assert found["has_fake"][place] == has_fake(masks).item()
        assert found["score"][place] == pytest.approx(maps.mean().item(), abs=1e-6)
        share = (maps > 0.5).double().mean().item()
        assert found["fake_share"][place] == pytest.approx(share, abs=1e-6)


def test_large_images_of_a_batch_are_evaluated_a_few_at_a_time(
    tiny_store, decoder, cpu, monkeypatch
):
    rows = tiny_store.fake_rows("train")
    decoders = AveragedDecoders([decoder])
    options = {"device": cpu, "batch_size": 8}
    at_once = localize(decoders, tiny_store, [FeatureSource("layer2")], rows, **options)
    # Two images of 40x56, one of the larger sizes.
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 2 * 40 * 56)
    read = tiny_store.read_masks
    counts = []

    def read_and_count(rows):
        masks = read(rows)
        counts.append((masks.size, len(rows)))
        return masks

    monkeypatch.setattr(tiny_store, "read_masks", read_and_count)
    parts = localize(decoders, tiny_store, [FeatureSource("layer2")], rows, **options)
    assert max(count for _, count in counts) == 2
    assert all(pixels <= 2 * 40 * 56 or count == 1 for pixels, count in counts)
    for name, values in at_once.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-12)


def test_maps_are_sigmoid_then_resize():
    logits = torch.tensor([[[-4.0, 4.0], [0.0, 2.0]]])
    assert torch.equal(probability_maps(logits, 2, 2), torch.sigmoid(logits))
    larger = probability_maps(logits, 4, 4)
    # Corner pixels lie beyond the centres of the outer logits, where bilinear holds the value.
    assert larger[0, 0, 0] == pytest.approx(torch.sigmoid(logits[0, 0, 0]).item())
    middle = torch.sigmoid(logits).mean().item()
    assert larger[0, 1:3, 1:3].mean().item() == pytest.approx(middle)
