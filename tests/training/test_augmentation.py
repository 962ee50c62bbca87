"""Augmentation in the space of features: what it changes, and what it does not depend on."""

import numpy as np
import pytest
import torch

from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.batch import Batch, Rows
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.training.augmentation import Augmentation, flipped
from declip_pipeline.training.recipe import Recipe

SOURCE = FeatureSource("layer0")
TOKENS = FeatureShape(6, 4, 4, prefix_tokens=2)
GRID = FeatureShape(6, 4, 4)
COUNT = 40


def batch(shape=TOKENS, positions=range(COUNT)):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(COUNT, *shape.array_shape, generator=draw)
    targets = torch.randint(0, 256, (COUNT, 8, 8), generator=draw, dtype=torch.uint8)
    chosen = torch.tensor(list(positions))
    return Batch(
        np.array(positions),
        torch.device("cpu"),
        {SOURCE: ("float32", Rows((features,), chosen))},
        Rows((targets,), chosen),
    )


def augmented(piece, shape=TOKENS, epoch=1, followers=None, **changes):
    augmentation = Augmentation.of(Recipe("linear", **changes))
    (features,), targets = augmentation.augmented(piece, followers, [SOURCE], [shape], epoch)
    return features, targets


@pytest.mark.parametrize("shape", [TOKENS, GRID])
def test_a_flip_mirrors_columns_and_leaves_prefix_tokens(shape):
    piece = batch(shape)
    features, _ = piece.features(SOURCE), None
    mirrored = flipped(features, shape)
    if shape.is_grid:
        assert torch.equal(mirrored, features.flip(3))
    else:
        assert torch.equal(mirrored[:, :2], features[:, :2])
        assert torch.equal(mirrored[:, 2], features[:, 5])  # first row, last column
        assert torch.equal(mirrored[:, 6:10], features[:, 6:10].flip(1))
    assert torch.equal(flipped(mirrored, shape), features)


@pytest.mark.parametrize("shape", [TOKENS, GRID])
def test_features_and_masks_of_half_of_the_images_are_mirrored_together(shape):
    piece = batch(shape)
    before, masks = piece.features(SOURCE), piece.targets
    features, targets = augmented(piece, shape, flips=True)
    are_flipped = (features != before).flatten(1).any(1)
    assert 10 < int(are_flipped.sum()) < 30
    for number, is_flipped in enumerate(are_flipped.tolist()):
        expected = flipped(before, shape) if is_flipped else before
        assert torch.equal(features[number], expected[number])
        assert torch.equal(targets[number], masks[number].flip(1) if is_flipped else masks[number])


def test_dropped_channels_have_their_mean_and_the_others_keep_theirs():
    piece = batch()
    before = piece.features(SOURCE)
    features, targets = augmented(piece, channel_dropout=0.25)
    assert torch.equal(features[:, :2], before[:, :2]) and torch.equal(targets, piece.targets)
    places, places_before = features[:, 2:], before[:, 2:]
    torch.testing.assert_close(places.mean(1), places_before.mean(1))
    is_dropped = places.std(1) < 1e-6
    assert 0.15 < float(is_dropped.float().mean()) < 0.35
    scale = places.std(1) / places_before.std(1)
    torch.testing.assert_close(scale[~is_dropped], torch.full_like(scale[~is_dropped], 4 / 3))


def test_noise_has_the_deviation_that_is_asked_for():
    shape = FeatureShape(6, 40, 40)
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 2, 3, 4, 5, 1000]).view(6, 1, 1)
    features = spread * torch.randn(2, *shape.array_shape, generator=draw)
    piece = Batch(
        np.arange(2),
        torch.device("cpu"),
        {SOURCE: ("float32", Rows((features,)))},
        Rows((torch.zeros(2, 8, 8, dtype=torch.uint8),)),
    )
    noise = augmented(piece, shape, feature_noise=0.1)[0] - features
    found = noise.std((2, 3)) / features.std((2, 3), correction=0)
    torch.testing.assert_close(found, torch.full_like(found, 0.1), rtol=0.1, atol=0)


def test_mixed_images_are_between_two_and_so_are_their_masks():
    piece = batch()
    before, masks = piece.features(SOURCE), piece.targets
    features, targets = augmented(piece, followers=piece.rolled(), mixup=0.4)
    share = (features - before.roll(-1, 0)).flatten(1).norm(dim=1) / (
        before - before.roll(-1, 0)
    ).flatten(1).norm(dim=1)
    assert bool(((share >= 0) & (share <= 1)).all()) and float(share.std()) > 0.1
    expected = share[:, None, None] * masks + (1 - share[:, None, None]) * masks.roll(-1, 0)
    torch.testing.assert_close(targets, expected, atol=1e-4, rtol=0)


ALL = {"flips": True, "channel_dropout": 0.2, "feature_noise": 0.1, "mixup": 0.3}


def test_draws_do_not_depend_on_pieces_or_on_other_images():
    piece = batch()
    whole, targets = augmented(piece, followers=piece.rolled(), **ALL)
    parts = [
        augmented(part, followers=other, **ALL)
        for part, other in zip(piece.pieces(7), piece.rolled().pieces(7), strict=True)
    ]
    assert torch.equal(torch.cat([one for one, _ in parts]), whole)
    assert torch.equal(torch.cat([one for _, one in parts]), targets)
    turned = batch(positions=range(COUNT - 1, -1, -1))
    options = {**ALL, "mixup": 0.0}
    forward, backward = augmented(piece, **options)[0], augmented(turned, **options)[0]
    assert torch.equal(backward.flip(0), forward)


def test_each_epoch_and_each_seed_draws_again():
    piece = batch()
    first = augmented(piece, flips=True)[0]
    assert torch.equal(first, augmented(piece, flips=True)[0])
    assert not torch.equal(first, augmented(piece, flips=True, epoch=2)[0])
    assert not torch.equal(first, augmented(piece, flips=True, seed=1)[0])


def test_a_recipe_without_augmentation_has_none():
    assert Augmentation.of(Recipe("linear")) is None


def test_features_of_a_feed_are_not_changed():
    piece = batch()
    before = piece.features(SOURCE).clone()
    augmented(piece, followers=piece.rolled(), **ALL)
    assert torch.equal(piece.features(SOURCE), before)
