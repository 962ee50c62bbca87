"""Real images as samples with empty masks, and the threshold that is best on `valid`."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.errors import InputError
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.metrics.detection import balanced_threshold
from declip_pipeline.metrics.localization import intersection_over_union
from declip_pipeline.metrics.regions import without_small_regions
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.epochs import epoch_order, real_count
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import plan_run, train_run, train_runs
from declip_pipeline.training.validation import (
    MIN_REGIONS,
    THRESHOLDS,
    Candidate,
    best_masks,
    real_shares,
    score_thresholds,
    validation_ious,
)

CPU = torch.device("cpu")
LABELS = np.array([1] * 20 + [0] * 6)
LINEAR = Recipe("linear", epochs=3, batch_size=4, learning_rate=1e-2)


def drawn(store):
    """A decoder with drawn weights, to validate: what it takes, itself, and as a candidate."""
    source = FeatureSource("layer1")
    decoder = build_decoder("linear", store.layers["layer1"]).eval()
    initialize(decoder, "pytorch", seed=3)
    return source, decoder, Candidate(decoder, lambda inputs: decoder(*inputs), [source], 3)


@pytest.mark.parametrize(("share", "reals"), [(0.0, 6), (0.1, 2), (0.2, 5), (0.5, 20)])
def test_an_epoch_has_each_fake_once_and_the_share_of_real_images(share, reals):
    order = epoch_order(LABELS, 0, 1, share)
    counts = Counter(order.tolist())
    assert all(counts[position] == 1 for position in range(20))
    assert len(order) == 20 + reals
    drawn = [counts[position] for position in range(20, 26)]
    assert sum(drawn) == reals and max(drawn) - min(drawn) <= 1
    if share:
        assert real_count(20, share) == reals
    assert np.array_equal(order, epoch_order(LABELS, 0, 1, share))
    assert not np.array_equal(order, epoch_order(LABELS, 0, 2, share))
    assert not np.array_equal(order, epoch_order(LABELS, 1, 1, share))


def test_a_run_with_real_images_sees_both(mixed_store, tmp_path):
    said, seen = [], []
    data = TrainingData([mixed_store], device=CPU, notice=said.append)

    def of_epoch(epoch):
        train, _ = data.feeds([data.inputs("layer1")], ["lama", "ldm"], "masks", True)
        order = epoch_order(train.labels, 0, epoch.epoch, 0.2)
        seen.append(int((train.labels[order] == 0).sum()))

    recipe = replace(LINEAR, with_real=0.2)
    run = train_run(data, tmp_path, layer="layer1", recipe=recipe, on_epoch=of_epoch)
    assert said[1] == "images: train 16 fake and 10 real, valid 10 fake and 6 real"
    assert seen == [4, 4, 4]
    config = run.config()
    assert config["with_real"] == 0.2
    assert config["images"] == {
        "train": {"fake": 16, "real": 10},
        "valid": {"fake": 10, "real": 6},
    }
    plain = train_run(data, tmp_path, layer="layer1", recipe=LINEAR)
    assert plain.path != run.path and "images" not in plain.config()
    mine, theirs = (one.best_decoder()[0].state_dict() for one in (run, plain))
    assert not all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_real_images_have_their_share_in_the_validation_score(mixed_store, cpu):
    source, _, candidate = drawn(mixed_store)

    def score(rows, share=0.0):
        feed = Feed([(mixed_store, rows)], [source], device=cpu)
        return validation_ious([candidate], feed, 4, real_share=share)[0]

    both = mixed_store.fake_and_real_rows("valid")
    is_fake = mixed_store.labels[both] == 1
    fakes, reals = score(both[is_fake]), score(both[~is_fake])
    assert fakes != reals
    assert score(both, 0.3) == pytest.approx(0.7 * fakes + 0.3 * reals)


def test_the_constant_score_counts_empty_masks(mixed_store, cpu):
    data = TrainingData([mixed_store], device=cpu)
    masks = mixed_store.read_targets(mixed_store.fake_rows("valid")) > 127
    assert not (masks.sum(axis=(1, 2)) == 0).any()
    assert data.constant_score(["lama", "ldm"], "masks", 0.4) == pytest.approx(40)
    assert data.constant_score(["lama", "ldm"], "masks", 0.01) == pytest.approx(99 * masks.mean())


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_resumed_and_side_by_side_it_is_the_same(mixed_store, tmp_path):
    recipes = [replace(LINEAR, with_real=0.3, learning_rate=lr) for lr in (1e-2, 1e-3)]
    data = TrainingData([mixed_store], device=CPU)
    together = [plan_run(data, tmp_path / "one", layer="layer1", recipe=r) for r in recipes]
    assert train_runs(data, together) == [None, None]

    def stop(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    for run, recipe in zip(together, recipes, strict=True):
        data = TrainingData([mixed_store], device=CPU, tier="stream")
        with pytest.raises(KeyboardInterrupt):
            train_run(data, tmp_path / "two", layer="layer1", recipe=recipe, on_epoch=stop)
        alone = train_run(data, tmp_path / "two", layer="layer1", recipe=recipe)
        assert alone.best_checkpoint.read_bytes() == run.folder.best_checkpoint.read_bytes()
        assert alone.valid_threshold == run.folder.valid_threshold


def test_a_store_without_real_images_is_refused(tiny_store, tmp_path):
    data = TrainingData([tiny_store], device=CPU)
    with pytest.raises(InputError) as caught:
        train_run(data, tmp_path, layer="layer1", recipe=replace(LINEAR, with_real=0.2))
    assert str(caught.value) == (
        f"no real image in split 'train' of {tiny_store.location}; `with_real` learns from some, "
        "extract a dataset that has both"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"with_real": 1.0}, "`with_real` is 1.0; expected less than 1"),
        ({"with_real": -0.1}, "`with_real` is -0.1; expected a number of at least 0"),
        (
            {"with_real": 0.2, "pooling": "mean"},
            "`with_real=0.2` is for localization; detection learns from all real images, leave it "
            "out",
        ),
    ],
)
def test_a_share_that_means_nothing_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        Recipe("linear", **options)
    assert str(caught.value) == message


def test_the_best_threshold_is_that_of_a_search(mixed_store, cpu):
    source, decoder, candidate = drawn(mixed_store)
    rows = mixed_store.fake_and_real_rows("valid")
    feed = Feed([(mixed_store, rows)], [source], device=cpu)
    (best,) = best_masks([candidate], feed, 5)
    with torch.inference_mode():
        features = mixed_store.read_layer("layer1", rows).decoded()
        maps = probability_maps(decoder(features), 256, 256)
    truth = torch.from_numpy(mixed_store.read_targets(rows) > 127)
    means = [float(intersection_over_union(maps, truth, one).mean()) for one in THRESHOLDS]
    assert best.threshold_iou == pytest.approx(max(means)) and len(set(means)) > 10
    assert means[THRESHOLDS.index(best.threshold)] == max(means)


def test_the_smallest_region_is_that_of_a_search(mixed_store, cpu):
    source, decoder, candidate = drawn(mixed_store)
    rows = mixed_store.fake_and_real_rows("valid")
    feed = Feed([(mixed_store, rows)], [source], device=cpu)
    with torch.inference_mode():
        maps = decoder(mixed_store.read_layer("layer1", rows).decoded())
    truth = torch.from_numpy(mixed_store.read_targets(rows) > 127)
    is_fake = mixed_store.labels[rows] == 1

    def mean(min_region, share):
        kept = [without_small_regions(one, min_region) for one in (maps > 0).numpy()]
        ious = intersection_over_union(torch.from_numpy(np.stack(kept)).float(), truth).numpy()
        if share == 0:
            return ious.mean()
        return (1 - share) * ious[is_fake].mean() + share * ious[~is_fake].mean()

    for share in (0.0, 0.3):
        (best,) = best_masks([candidate], feed, 5, share)
        means = [mean(one, share) for one in MIN_REGIONS]
        assert best.min_region_iou == pytest.approx(max(means)) and len(set(means)) > 5
        assert best.min_region == MIN_REGIONS[int(np.argmax(np.round(means, 9)))]


def test_the_smallest_region_is_kept_with_the_run(tiny_run, mixed_store, tiled_store, tmp_path):
    run = Run(tiny_run)
    summary = run.summary()
    assert run.min_region == summary["valid_min_region"] in MIN_REGIONS
    assert summary["valid_iou_at_min_region"] >= summary["best_valid_iou"] - 1e-6
    data = TrainingData([mixed_store], device=CPU)
    detecting = train_run(data, tmp_path, layer="layer1", recipe=replace(LINEAR, pooling="mean"))
    assert detecting.min_region is None
    # A region may reach over several tiles.
    data = TrainingData([tiled_store], device=CPU)
    of_tiles = train_run(data, tmp_path, layer="layer1", recipe=replace(LINEAR, epochs=1))
    assert of_tiles.min_region is None and of_tiles.valid_threshold is not None


def test_the_threshold_is_kept_with_the_run(tiny_store, tiny_run, mixed_store, tmp_path):
    run = Run(tiny_run)
    summary = run.summary()
    assert summary["valid_threshold"] in THRESHOLDS
    assert summary["valid_iou_at_threshold"] >= summary["best_valid_iou"] - 1e-6
    assert run.require_valid_threshold() == run.valid_threshold == summary["valid_threshold"]
    data = TrainingData([mixed_store], device=CPU)
    other = train_run(data, tmp_path, layer="layer1", recipe=replace(LINEAR, pooling="mean"))
    assert other.valid_threshold is None
    with pytest.raises(InputError) as caught:
        other.require_valid_threshold()
    assert str(caught.value) == (
        f"{other.path} has no threshold from its split valid: runs of detection, imported ones "
        "and those of earlier versions keep none; give `threshold` as a number"
    )


def test_shares_of_real_images_are_those_of_their_maps(mixed_store, cpu):
    source, decoder, candidate = drawn(mixed_store)
    rows = mixed_store.fake_and_real_rows("valid")
    feed = Feed([(mixed_store, rows)], [source], device=cpu)
    (found,) = real_shares([candidate], feed, 5)
    real = rows[mixed_store.labels[rows] == 0]
    with torch.inference_mode():
        maps = torch.sigmoid(decoder(mixed_store.read_layer("layer1", real).decoded()))
    expected = [(maps > one).float().mean((1, 2)).numpy() for one in THRESHOLDS]
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-6)
    assert found.shape == (6, 99) and 0 < found.mean() < 1


def test_tiles_of_a_real_image_count_as_one(mixed_store, cpu, monkeypatch):
    source, _, candidate = drawn(mixed_store)
    real = mixed_store.samples.rows(splits=["valid"], label=0)
    feed = Feed([(mixed_store, real)], [source], device=cpu)
    (alone,) = real_shares([candidate], feed, 5)
    monkeypatch.setattr(Feed, "image_of", np.array([0, 1, 1, 0, 1, 2]))
    (joined,) = real_shares([candidate], feed, 5)
    expected = [alone[[0, 3]].mean(0), alone[[1, 2, 4]].mean(0), alone[5]]
    np.testing.assert_allclose(joined, expected, atol=1e-6)


def test_shares_of_real_images_are_kept_with_the_run(mixed_store, tiny_run, tmp_path):
    data = TrainingData([mixed_store], device=CPU)
    recipe = replace(LINEAR, with_real=0.2)
    run = train_run(data, tmp_path, layer="layer1", recipe=recipe)
    shares = run.valid_real_shares()
    assert shares.shape == (6, 99) and shares.dtype == np.float32
    assert (np.diff(shares, axis=1) <= 0).all(), "fewer pixels are above a higher threshold"
    assert Run(tiny_run).valid_real_shares() is None
    file = run.path / "valid_real_shares.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="its valid_real_shares.npy is damaged"):
        run.valid_real_shares()


def scores_of(run, store, rows):
    """Image scores of a run's maps at 256x256: their means, or the pooled logits' sigmoids."""
    decoder = run.decoder()
    with torch.inference_mode():
        logits = decoder(store.read_layer("layer1", rows).decoded()).double()
        if decoder.pooling is None:
            return logits.sigmoid().mean(dim=(1, 2))
        return decoder.pooling(logits).sigmoid()


@pytest.mark.parametrize("changes", [{}, {"with_real": 0.2}, {"pooling": "max"}])
def test_the_threshold_of_image_scores_is_chosen_on_fakes_and_real_images(
    mixed_store, tmp_path, changes
):
    data = TrainingData([mixed_store], device=CPU)
    run = train_run(data, tmp_path, layer="layer1", recipe=replace(LINEAR, **changes))
    rows = mixed_store.fake_and_real_rows("valid")
    labels = torch.from_numpy(mixed_store.labels[rows])
    assert set(labels.tolist()) == {0, 1}
    threshold, balanced = balanced_threshold(scores_of(run, mixed_store, rows), labels)
    assert run.score_threshold == pytest.approx(threshold, abs=1e-6)
    assert run.summary()["valid_balanced_accuracy"] == pytest.approx(balanced)


def test_the_threshold_of_image_scores_takes_the_fakes_that_were_learned(mixed_store, tmp_path):
    data = TrainingData([mixed_store], device=CPU)
    run = train_run(data, tmp_path, layer="layer1", recipe=LINEAR, train_on=["ldm"])
    rows = mixed_store.fake_and_real_rows("valid", ["ldm"])
    labels = torch.from_numpy(mixed_store.labels[rows])
    expected = balanced_threshold(scores_of(run, mixed_store, rows), labels)[0]
    assert run.score_threshold == pytest.approx(expected, abs=1e-6)


def test_without_a_real_image_there_is_no_threshold_of_image_scores(tiny_run):
    assert Run(tiny_run).score_threshold is None
    assert "valid_score_threshold" not in Run(tiny_run).summary()


def test_the_score_of_tiles_is_their_mean(mixed_store, cpu):
    """As if the rows of each pair were two tiles of an image."""
    source, decoder, candidate = drawn(mixed_store)
    labels = mixed_store.labels
    rows = np.concatenate([np.flatnonzero(labels == 1)[:8], np.flatnonzero(labels == 0)[:8]])

    class Paired(Feed):
        @property
        def image_of(self):
            return np.arange(len(self)) // 2

    feed = Paired([(mixed_store, rows)], [source], device=cpu, targets="labels")
    (found,) = score_thresholds([candidate], feed, 5)
    with torch.inference_mode():
        maps = decoder(mixed_store.read_layer("layer1", rows).decoded()).double().sigmoid()
    scores = maps.mean(dim=(1, 2)).view(-1, 2).mean(dim=1)
    expected = balanced_threshold(scores, torch.from_numpy(labels[rows][::2]))
    assert found == pytest.approx(expected)
