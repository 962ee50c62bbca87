"""Probes are scikit-learn's logistic regression, folded into a linear decoder without a loss."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from declip_pipeline.compute import derived_seed, permutation
from declip_pipeline.decoders.file import load_decoder
from declip_pipeline.decoders.names import is_probe, probe_components
from declip_pipeline.errors import InputError, TrainingError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learner_choice import decoder_of, learner_of
from declip_pipeline.training.patch_moments import PatchMoments
from declip_pipeline.training.patches import patch_labels
from declip_pipeline.training.probe import ALPHA, PatchProjection
from declip_pipeline.training.recipe import Recipe, choose_precision
from declip_pipeline.training.runs import plan_run, train_run, train_runs

CPU = torch.device("cpu")
GRID = FeatureShape(6, 4, 4)
TOKENS = FeatureShape(5, 4, 4, prefix_tokens=2)


def recipe(decoder_type="probe", **changes) -> Recipe:
    options = {"decoder_type": decoder_type, "epochs": 3, "batch_size": 3, "learning_rate": 1e-2}
    return Recipe(**(options | changes))


def run(store, runs, decoder_type="probe", layer="layer1", on_epoch=lambda epoch: None, **changes):
    return train_run(
        TrainingData([store], device=CPU),
        runs,
        layer=layer,
        recipe=recipe(decoder_type, **changes),
        on_epoch=on_epoch,
    )


def without_seconds(folder):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in folder.epochs()]


def in_memory(store, layer):
    """Features (n, h * w, c) of the training images, and labels (n, h * w), by hand."""
    feed = Feed([(store, store.fake_rows("train"))], [source := FeatureSource(layer)], device=CPU)
    (batch,) = feed.batches(np.arange(len(feed)), len(feed))
    shape = store.layers[layer]
    assert (256 % shape.height, 256 % shape.width) == (0, 0)
    blocks = batch.targets.numpy().reshape(
        len(feed), shape.height, 256 // shape.height, shape.width, 256 // shape.width
    )
    labels = (np.rint(blocks * 255).mean((2, 4)) > 127.5).reshape(len(feed), -1).astype(int)
    return batch.features(source).numpy()[:, shape.prefix_tokens :], labels


@pytest.mark.parametrize("components", [None, 4])
def test_it_is_scikit_learn_in_memory(tiny_store, tmp_path, components):
    name = "probe" if components is None else f"probe-pca-{components}"
    folder = run(tiny_store, tmp_path, name)
    features, labels = in_memory(tiny_store, "layer1")
    assert 0 < labels.mean() < 0.5
    count, positions, channels = features.shape
    flat = StandardScaler().fit_transform(features.reshape(-1, channels).astype(np.float64))
    if components is not None:
        flat = PCA(components, svd_solver="full").fit_transform(flat)
    seen = flat.astype(np.float32).reshape(count, positions, -1)
    classifier = SGDClassifier(
        loss="log_loss",
        alpha=ALPHA,
        learning_rate="constant",
        eta0=1e-2,
        random_state=derived_seed(0, "probe") % 2**32,
    )
    losses, maps = [], []
    for epoch in (1, 2, 3):
        total = 0.0
        order = permutation(count, 0, "epoch", epoch)
        for start in range(0, count, 3):
            chosen = order[start : start + 3]
            x, y = seen[chosen].reshape(-1, seen.shape[2]), labels[chosen].ravel()
            before = classifier.predict_proba(x)[:, 1] if start or epoch > 1 else y * 0 + 0.5
            total += log_loss(y, before, labels=[0, 1]) * len(chosen)
            classifier.partial_fit(x, y, classes=[0, 1])
        losses.append(total / count)
        maps.append(classifier.decision_function(seen.reshape(-1, seen.shape[2])))
    assert [record["train_loss"] for record in folder.epochs()] == pytest.approx(losses, abs=1e-5)
    decoder, _ = load_decoder(folder.best_checkpoint)
    assert decoder.decoder_type == "linear"
    # A decoder takes all tokens; those before the patches have no part in its map.
    prefix = np.zeros((count, tiny_store.layers["layer1"].prefix_tokens, channels), np.float32)
    tokens = torch.from_numpy(np.concatenate([prefix, features], 1))
    found = decoder.position_logits(tokens).detach().numpy().ravel()
    best = folder.summary()["best_epoch"]
    assert found == pytest.approx(maps[best - 1], abs=1e-4)


@pytest.mark.parametrize("decoder_type", ["probe", "probe-pca-3"])
@pytest.mark.parametrize("shapes", [[GRID], [TOKENS], [GRID, TOKENS]], ids=["grid", "tokens", "2"])
def test_what_it_learns_is_folded_exactly(decoder_type, shapes):
    draw = torch.Generator().manual_seed(0)
    learner = learner_of(recipe(decoder_type), shapes, "concat", CPU)
    inputs = [3 + 2 * torch.randn(4, *shape.array_shape, generator=draw) for shape in shapes]
    targets = torch.zeros(4, 256, 256)
    targets[:, :128, :192] = 1
    learner.look(inputs, targets)
    learner.end_look()
    learner.begin_epoch(0.1)
    loss = learner.accumulate(learner.compute(inputs, targets, 1.0))
    assert float(loss) == pytest.approx(np.log(2), abs=1e-6), "nothing was known yet"
    learner.update()
    grids = [
        x if shape.is_grid else x[:, 2:].transpose(1, 2).reshape(4, -1, 4, 4)
        for x, shape in zip(inputs, shapes, strict=True)
    ]
    patches = torch.cat(grids, 1).permute(0, 2, 3, 1).reshape(64, -1).double().numpy()
    standard = StandardScaler().fit_transform(patches)
    state = learner.state()
    seen = learner._projection(torch.from_numpy(patches))
    if decoder_type == "probe":
        assert seen.numpy() == pytest.approx(standard, abs=1e-6)
    else:
        expected = PCA(3, svd_solver="full").fit_transform(standard)
        assert np.abs(seen.numpy()) == pytest.approx(np.abs(expected), abs=1e-5)
    by_hand = seen @ state["weights"].double() + state["bias"].double()
    logits = learner.decoder.position_logits(learner.decoder.joined(*inputs))
    assert float(by_hand.std()) > 0.1
    assert logits.detach().numpy().ravel() == pytest.approx(by_hand.numpy(), abs=1e-5)
    again = learner_of(recipe(decoder_type), shapes, "concat", CPU)
    again.load_state(state)
    assert torch.equal(again.logits(inputs), learner.logits(inputs))


def test_moments_in_pieces_are_those_of_all():
    patches = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    patches = patches @ torch.diag(torch.tensor([1.0, 5, 0.01, 2, 3, 0])) + 40
    for joint in (False, True):
        moments = PatchMoments(6, joint=joint)
        for piece in patches.split(77):
            moments.add(piece)
        scaler = StandardScaler().fit(patches.double().numpy())
        assert moments.count == 500
        assert moments.mean.numpy() == pytest.approx(scaler.mean_, rel=1e-9)
        # Of a constant channel, 1: it stays 0.
        assert moments.spread.numpy() == pytest.approx(scaler.scale_, rel=1e-5)
        assert moments.spread[5] == 1
        assert moments.constant_channels == [5]
    found = PatchProjection.of(moments, 2)(patches.double()).numpy()
    expected = PCA(2, svd_solver="full").fit_transform(scaler.transform(patches.double().numpy()))
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-4)


def test_a_patch_is_fake_where_more_than_half_of_it_is():
    targets = torch.zeros(2, 256, 256)
    targets[0, :16, :16] = 127 / 255
    targets[0, :16, 16:25] = 1  # 9 of 16 columns
    targets[0, 16:32, 32:40] = 1  # 8 of 16, a half is not more than half
    targets[1, 240:, 240:] = 0.51
    labels = patch_labels(targets, FeatureShape(1, 16, 16, prefix_tokens=1))
    assert labels.shape == (512,)
    assert labels.nonzero().ravel().tolist() == [1, 511]
    # 7 parts of 256: areas of 37 pixels, the second from 36 to 74.
    targets = torch.zeros(1, 256, 256)
    targets[0, :37, 36:56] = 1
    assert patch_labels(targets, FeatureShape(1, 7, 7)).nonzero().ravel().tolist() == [1]


@pytest.mark.slow
@pytest.mark.parametrize("decoder_type", ["probe", "probe-pca-4"])
@pytest.mark.parametrize("stop_after", [1, 2])
def test_resumed_it_ends_as_undisturbed(tiny_store, tmp_path, decoder_type, stop_after):
    undisturbed = run(tiny_store, tmp_path / "one", decoder_type)

    def interrupt(epoch):
        if epoch.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_store, tmp_path / "two", decoder_type, on_epoch=interrupt)
    resumed = run(tiny_store, tmp_path / "two", decoder_type)
    assert resumed.path.name == undisturbed.path.name
    assert without_seconds(resumed) == without_seconds(undisturbed)
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()


@pytest.mark.slow
def test_in_company_it_ends_as_alone(tiny_store, tmp_path):
    data = TrainingData([tiny_store], device=CPU)
    cells = [("layer1", "probe-pca-4"), ("layer0+layer1", "probe"), ("layer1", "linear")]
    plans = [
        plan_run(data, tmp_path / "together", layer=layer, recipe=recipe(name))
        for layer, name in cells
    ]
    assert train_runs(data, plans) == [None] * 3
    for plan, (layer, name) in zip(plans, cells, strict=True):
        alone = run(tiny_store, tmp_path / "alone", name, layer)
        assert without_seconds(alone) == without_seconds(plan.folder)
        assert alone.best_checkpoint.read_bytes() == plan.folder.best_checkpoint.read_bytes()


def test_pictures_without_a_fake_patch_are_refused_and_others_go_on(
    tiny_store, tmp_path, monkeypatch
):
    from declip_pipeline.training import probe

    monkeypatch.setattr(
        probe,
        "patch_labels",
        lambda targets, shape: torch.zeros(len(targets) * shape.height * shape.width).long(),
    )
    data = TrainingData([tiny_store], device=CPU)
    plans = [
        plan_run(data, tmp_path, layer="layer1", recipe=recipe(name))
        for name in ("probe", "linear")
    ]
    error, none = train_runs(data, plans)
    shape = tiny_store.layers["layer1"]
    assert none is None and plans[1].folder.is_finished
    assert isinstance(error, TrainingError)
    assert str(error) == (
        f"none of the {8 * shape.height * shape.width} training patches is more than half fake, at "
        f"{shape.height}x{shape.width} patches an image; a probe needs some: take a layer with a "
        "finer grid, or another decoder"
    )
    with pytest.raises(TrainingError, match="more than half fake"):
        run(tiny_store, tmp_path / "alone")


def test_numbers_without_bounds_stop_it_at_their_step(tiny_store, tmp_path):
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step 1 \(.*lower `learn"):
        run(tiny_store, tmp_path, learning_rate=1e300)


def test_what_a_probe_cannot_be_is_refused(tiny_store, tmp_path):
    channels = tiny_store.layers["layer1"].channels
    with pytest.raises(InputError, match=f"asks for 999 components of features of {channels} cha"):
        run(tiny_store, tmp_path, "probe-pca-999")
    with pytest.raises(InputError, match=r"probe got widths \[8, 4, 2, 1\], expected none; leave"):
        run(tiny_store, tmp_path, widths=(8, 4, 2, 1))
    with pytest.raises(InputError, match="probe is learned by scikit-learn, .*leave out `compile`"):
        run(tiny_store, tmp_path, compile=True)
    with pytest.raises(InputError, match="probe standardises patches by .*leave out `normalize`"):
        run(tiny_store, tmp_path, normalize="layernorm")
    with pytest.raises(InputError, match='weights of a weighted sum of 2 .*take `fusion="concat"`'):
        decoder_of(recipe(), [GRID, GRID], "weighted")
    for wrong in ("probe-pca-0", "probe-pca", "probe-pca-04", "prob"):
        with pytest.raises(
            UnknownNameError, match="known: linear, .*patch-.*, probe, probe-pca-64"
        ):
            run(tiny_store, tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []


def test_names_say_what_a_probe_is():
    assert [is_probe(name) for name in ("probe", "probe-pca-1", "linear")] == [True, True, False]
    assert (probe_components("probe"), probe_components("probe-pca-64")) == (None, 64)
    assert choose_precision("bfloat16", "probe-pca-64", CPU) == "float32"
