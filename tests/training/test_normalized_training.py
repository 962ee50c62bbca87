"""Trainings on normalized features: the statistics, one pass for all, and what a run says."""

import numpy as np
import pytest
import torch

from declip_pipeline.errors import InputError, OutputExistsError
from declip_pipeline.features import StoredFeatures
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import plan_run, train, train_run, train_runs

CPU = torch.device("cpu")
QUICK = {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2}
LIGHT = [
    ("layer1+layer2", Recipe("mlp", **QUICK)),
    ("layer1", Recipe("fcn", **QUICK)),
    ("layer1+layer2", Recipe("pup", **QUICK)),
    ("layer1", Recipe("linear", **QUICK, normalize="channel")),
]


def plans(store, runs, some=LIGHT, tier="auto"):
    data = TrainingData([store], device=CPU, tier=tier)
    return data, [plan_run(data, runs, layer=layer, recipe=recipe) for layer, recipe in some]


def weights(run):
    return run.folder.best_decoder()[0].state_dict()


def assert_same(runs, others):
    for run, other in zip(runs, others, strict=True):
        assert [one["train_loss"] for one in run.folder.epochs()] == [
            one["train_loss"] for one in other.folder.epochs()
        ]
        mine, theirs = weights(run), weights(other)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8", "int8-per-channel", "bfloat16", "float32"])
def test_statistics_are_those_of_the_training_patches(store_in, tmp_path, dtype):
    store = store_in(dtype)
    data = TrainingData([store], device=CPU)
    recipe = Recipe("fcn", **QUICK)
    run = train_run(data, tmp_path, layer="layer1+layer2", recipe=recipe)
    state = run.decoder().state_dict()
    rows = store.fake_rows("train")
    for number, layer in enumerate(("layer1", "layer2")):
        shape = store.layers[layer]
        features = store.read_layer(layer, rows).decoded().double().numpy()
        patches = features[:, shape.prefix_tokens :].reshape(-1, shape.channels)
        assert state["normalization.positions"] == len(patches)
        mean, deviation = (
            state[f"normalization.{name}_{number}"].numpy() for name in ("mean", "deviation")
        )
        np.testing.assert_allclose(mean, patches.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(deviation, patches.std(0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("tier", ["memory", "stream"])
def test_side_by_side_is_as_alone_after_one_pass(tiny_store, tmp_path, monkeypatch, tier):
    some = LIGHT[:3]  # a linear decoder is trained apart from others, as it computes in threads
    data, together = plans(tiny_store, tmp_path / "together", some, tier)
    orders = []
    batches = Feed.batches
    with monkeypatch.context() as patch:
        patch.setattr(
            Feed,
            "batches",
            lambda feed, order, size: orders.append(len(order)) or batches(feed, order, size),
        )
        assert train_runs(data, together) == [None] * 3
    # One pass for the statistics, training and validation of each epoch, one for the threshold.
    assert orders == [8, 8, 3, 8, 3, 3]
    data, alone = plans(tiny_store, tmp_path / "alone", some)
    for run in alone:
        assert train_runs(data, [run]) == [None]
    assert_same(together, alone)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_resumed_it_ends_as_undisturbed_without_another_pass(tiny_store, tmp_path, monkeypatch):
    data, undisturbed = plans(tiny_store, tmp_path / "one")
    train_runs(data, undisturbed)
    data, disturbed = plans(tiny_store, tmp_path / "two")

    def stop(number, epoch):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(data, disturbed, stop)
    monkeypatch.setattr("declip_pipeline.training.learner.GradientLearner.look", None)
    assert train_runs(data, disturbed) == [None] * 4
    assert_same(disturbed, undisturbed)


@pytest.mark.slow
def test_bfloat16_learns_the_same_to_rounding(tiny_store, tmp_path):
    one_epoch = {**QUICK, "epochs": 1}
    recipes = [
        ("layer1+layer2", Recipe(name, **one_epoch, precision=precision))
        for name in ("mlp", "fcn", "pup")
        for precision in ("float32", "bfloat16")
    ]
    data, runs = plans(tiny_store, tmp_path, recipes)
    assert train_runs(data, runs) == [None] * 6
    losses = [run.folder.epochs()[0]["train_loss"] for run in runs]
    for exact, half in zip(losses[::2], losses[1::2], strict=True):
        assert half == pytest.approx(exact, rel=2e-2)
        assert half != exact
    for full, half in zip(runs[::2], runs[1::2], strict=True):
        mean = "normalization.mean_1"
        assert torch.equal(weights(full)[mean], weights(half)[mean])


@pytest.mark.slow
def test_layernorm_needs_no_pass(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr("declip_pipeline.training.learner.GradientLearner.look", None)
    recipe = Recipe("linear", **QUICK, normalize="layernorm")
    data, runs = plans(tiny_store, tmp_path, [("layer1", recipe)])
    assert train_runs(data, runs) == [None]
    decoder = runs[0].folder.decoder()
    assert decoder.normalization is not None
    assert decoder.normalization.mode == "layernorm"


def test_constant_channels_are_said_once_and_not_scaled(tiny_store, tmp_path, monkeypatch):
    decoded = StoredFeatures.decoded

    def constant(stored):
        features = decoded(stored).clone()
        features[..., [3, 7]] = 5.0
        return features

    monkeypatch.setattr(StoredFeatures, "decoded", constant)
    said = []
    data = TrainingData([tiny_store], device=CPU, notice=said.append)
    recipes = [Recipe("linear", **QUICK, normalize="channel", seed=0), Recipe("fcn", **QUICK)]
    runs = [plan_run(data, tmp_path, layer="layer1", recipe=recipe) for recipe in recipes]
    assert train_runs(data, runs) == [None, None]
    assert [line for line in said if "constant" in line] == [
        "layer1: 2 channels are constant over the training images (3, 7); centred, not scaled"
    ]
    state = weights(runs[0])
    assert state["normalization.deviation_0"][[3, 7]].tolist() == [1, 1]
    assert state["normalization.mean_0"][[3, 7]].tolist() == [5, 5]
    assert all(value.isfinite().all() for value in state.values())


def test_a_run_is_named_by_its_normalization_unless_it_is_the_papers():
    def identity(name, **options):
        return Recipe(name, **options).to_json()

    assert "normalize" not in identity("conv-4")
    assert identity("conv-4") == identity("conv-4", normalize="none")
    assert identity("conv-4", normalize="channel")["normalize"] == "channel"
    assert identity("pup") == identity("pup", normalize="channel")
    assert identity("pup")["normalize"] == "channel"
    assert "normalize" not in identity("pup", normalize="none")


@pytest.mark.slow
def test_a_run_without_is_not_continued_with_it(tiny_store, tmp_path):
    options = {"layer": "layer1", "decoder": "linear", "runs": tmp_path, "name": "mine", **QUICK}
    train(tiny_store, **options)
    before = sorted((file.name, file.read_bytes()) for file in (tmp_path / "mine").iterdir())
    with pytest.raises(OutputExistsError, match="mine .*"):
        train(tiny_store, **options, normalize="channel")
    assert before == sorted(
        (file.name, file.read_bytes()) for file in (tmp_path / "mine").iterdir()
    )


def test_another_name_is_refused(tiny_store, tmp_path):
    with pytest.raises(InputError, match="unknown normalization 'batch'; known: none, channel, i"):
        train(tiny_store, layer="layer1", runs=tmp_path, normalize="batch")
