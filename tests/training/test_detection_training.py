"""Detection: labels of images instead of masks, one pooled logit, judged by AP."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.feed import Feed, targets_bytes
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learner import training_loss
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import plan_run, train_run
from declip_pipeline.training.train import Epoch
from declip_pipeline.training.uncached_feed import RecordedBackbones, UncachedFeed

CPU = torch.device("cpu")


def recipe(**changes):
    options = {
        "decoder_type": "linear",
        "pooling": "mean",
        "initialization": "pytorch",
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 1e-2,
    }
    return Recipe(**(options | changes))


def run(store, runs, notice=lambda line: None, train_on=None, **changes):
    data = TrainingData([store], device=CPU, notice=notice)
    return train_run(data, runs, layer="layer2", recipe=recipe(**changes), train_on=train_on)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "max", "learned"])
def test_it_learns_which_pictures_are_fake(mixed_store, tmp_path, pooling):
    said = []
    folder = run(mixed_store, tmp_path, said.append, pooling=pooling)
    records = folder.epochs()
    assert records[-1]["train_loss"] < 0.8 * records[0]["train_loss"]
    summary = folder.summary()
    # Of 16 pictures 10 are fake: chance is 62.5.
    assert summary["best_valid_ap"] == max(record["valid_ap"] for record in records) > 90
    assert "best_valid_iou" not in summary and "valid_iou" not in records[0]
    assert (summary["train_images"], summary["valid_images"]) == (26, 16)
    assert said[1] == (
        "images, each counted the same: train 16 fake and 10 real, valid 10 fake and 6 real"
    )
    config = folder.config()
    assert config["pooling"] == pooling
    assert config["images"]["train"] == {"fake": 16, "real": 10}
    assert folder.path.name.startswith(f"detection-{pooling}_linear_layer2_all_seed0_")
    decoder, _ = folder.best_decoder()
    assert decoder.pooling.name == pooling
    if pooling == "learned":
        assert decoder.pooling.log_sharpness != 0
        assert summary["parameters"] == 128 + 1 + 1


@pytest.mark.slow
def test_valid_ap_is_that_of_the_pooled_logits(mixed_store, tmp_path):
    folder = run(mixed_store, tmp_path, epochs=1, learning_rate=1e-4)
    decoder, _ = folder.best_decoder()
    rows = mixed_store.fake_and_real_rows("valid")
    with torch.inference_mode():
        logits = decoder(mixed_store.read_layer("layer2", rows).decoded()).mean(dim=(1, 2))
    expected = 100 * average_precision_score(mixed_store.labels[rows], logits.numpy())
    assert folder.summary()["best_valid_ap"] == pytest.approx(expected)


def test_the_loss_is_that_of_the_mean_logit():
    decoder = build_decoder("linear", FeatureShape(4, 2, 2), pooling="mean")
    features = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1.0, 0.0, 1.0])
    means = torch.stack([one.mean() for one in decoder(features)])
    expected = F.binary_cross_entropy_with_logits(means, labels)
    torch.testing.assert_close(training_loss(decoder, [features], labels), expected)


def test_named_generators_are_told_from_all_real_pictures(mixed_store, tmp_path):
    data = TrainingData([mixed_store], device=CPU)
    planned = plan_run(data, tmp_path, layer="layer1", recipe=recipe(), train_on=["lama"])
    assert planned.config["images"]["train"] == {"fake": 8, "real": 10}
    ((_, rows),) = data.rows("train", ["lama"], "labels")
    samples = [mixed_store.samples[row] for row in rows]
    assert [sample.id for sample in samples] == sorted(sample.id for sample in samples)
    assert {sample.generator for sample in samples} == {"lama", "real"}
    # Localization from the same data goes on without them.
    ((_, rows),) = data.rows("train", ["lama"])
    assert len(rows) == 8


@pytest.mark.parametrize("tier", ["memory", "stream"])
def test_a_feed_of_labels_reads_no_masks(mixed_store, cpu, tier, monkeypatch):
    monkeypatch.setattr(mixed_store, "read_targets", None)
    rows, source = mixed_store.fake_and_real_rows("train"), FeatureSource("layer1")
    feed = Feed([(mixed_store, rows)], [source], device=cpu, tier=tier, targets="labels")
    order = np.arange(26)[::-1].copy()
    found = [piece for batch in feed.batches(order, 5) for piece in batch.pieces(3)]
    labels = torch.from_numpy(mixed_store.labels[rows[order]])
    assert torch.equal(torch.cat([piece.targets for piece in found]), labels.float())
    assert torch.equal(torch.cat([piece.truth for piece in found]), labels.bool())
    assert 0 < labels.sum() < 26
    parts = [(mixed_store, rows)]
    assert (targets_bytes(parts), targets_bytes(parts, "labels")) == (26 * 65536, 26)


def test_without_a_cache_the_labels_are_the_same(mixed_store, cpu):
    parts = [(mixed_store, mixed_store.fake_and_real_rows("valid"))]
    backbones = RecordedBackbones(cpu)
    source = FeatureSource("layer1")
    feed = UncachedFeed(parts, [source], device=cpu, backbones=backbones, targets="labels")
    stored = Feed(parts, [source], device=cpu, targets="labels")
    order = np.asarray([7, 0, 9, 3, 5])
    for one, other in zip(feed.batches(order, 3), stored.batches(order, 3), strict=True):
        assert torch.equal(one.targets, other.targets)
        torch.testing.assert_close(
            one.features(source), other.features(source), rtol=2e-3, atol=2e-3
        )


def test_localization_is_named_as_before():
    plain = Recipe("linear").to_json()
    assert list(plain) == [
        "decoder_type", "widths", "initialization", "seed", "epochs", "batch_size",
        "micro_batch_size", "learning_rate", "patience", "precision", "compile",
    ]  # fmt: skip
    assert recipe().to_json()["pooling"] == "mean"


def test_epochs_are_read_as_they_were_written():
    for name in ("iou", "ap"):
        epoch = Epoch(3, 0.5, 71.0, 1e-3, 2.0, name)
        record = json.loads(json.dumps(epoch.to_json()))
        assert record[f"valid_{name}"] == 71.0 and len(record) == 5
        assert Epoch.from_json(record) == epoch


def test_what_detection_cannot_learn_from_is_refused(tiny_store, mixed_store, tmp_path):
    with pytest.raises(InputError, match="no real image in split 'train' of .*; detection learns"):
        run(tiny_store, tmp_path)
    with pytest.raises(InputError, match="probe learns which patches are fake, from masks; det"):
        run(mixed_store, tmp_path, decoder_type="probe")
    with pytest.raises(InputError, match="which has 26 of lama, ldm, real; expected a part"):
        run(mixed_store, tmp_path, batch_size=27)
    with pytest.raises(UnknownNameError, match="unknown pooling 'mode'; .*known: mean, max, lear"):
        recipe(pooling="mode")
    assert list(tmp_path.iterdir()) == []


def test_a_split_of_one_class_is_refused(mixed_store, tmp_path, monkeypatch):
    for split, label, message in (
        ("valid", 1, "no real image in split 'valid'"),
        ("valid", 0, "no fake image of lama, ldm in split 'valid'"),
    ):
        splits = [
            "other" if sample.split == split and sample.label != label else sample.split
            for sample in mixed_store.samples
        ]
        samples = mixed_store.samples.replace(split=splits)
        with monkeypatch.context() as patch:
            patch.setattr(mixed_store, "samples", samples)
            with pytest.raises(InputError, match=message):
                run(mixed_store, tmp_path)
    assert list(tmp_path.iterdir()) == []
