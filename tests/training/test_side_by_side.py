"""Decoders trained side by side, in parts, in bfloat16 or compiled are those trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from declip_pipeline.errors import InputError, RunBusyError, TrainingError
from declip_pipeline.features import StoredFeatures
from declip_pipeline.training import data as training_data
from declip_pipeline.training import learner
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import plan_run, train_runs

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
LINEAR = Recipe("linear", epochs=3, batch_size=3, learning_rate=1e-2)
CONV = Recipe("conv-4", widths=(8, 8, 4, 4), epochs=2, batch_size=3, initialization="pytorch")
ALL = [(layer, recipe) for layer in ("layer0", "layer1") for recipe in (LINEAR, CONV)]
DETECTION = [
    ("layer1", replace(LINEAR, pooling="mean")),
    ("layer1", replace(CONV, pooling="max")),
    ("layer2", replace(LINEAR, pooling="learned")),
    ("layer2", replace(LINEAR, pooling="max", epochs=2)),
]


def plans(store, runs, some=ALL, tier="auto"):
    data = TrainingData([store], device=CPU, tier=tier)
    return data, [plan_run(data, runs, layer=layer, recipe=recipe) for layer, recipe in some]


def weights(run):
    return run.folder.best_decoder()[0].state_dict()


def losses(run):
    return [record["train_loss"] for record in run.folder.epochs()]


def assert_same(runs, others):
    for run, other in zip(runs, others, strict=True):
        assert run.folder.path.name == other.folder.path.name
        assert losses(run) == losses(other)
        mine, theirs = weights(run), weights(other)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tier", "detection"), [("memory", False), ("stream", False), ("memory", True)]
)
def test_side_by_side_is_as_alone(tiny_store, mixed_store, tmp_path, tier, detection):
    store, some = (mixed_store, DETECTION) if detection else (tiny_store, ALL)
    data, together = plans(store, tmp_path / "together", some, tier)
    told = []
    assert train_runs(data, together, lambda number, epoch: told.append(number)) == [None] * 4
    assert sorted(told) == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    data, alone = plans(store, tmp_path / "alone", some)
    for run in alone:
        assert train_runs(data, [run]) == [None]
    assert_same(together, alone)


@pytest.mark.slow
def test_one_that_was_ahead_waits_for_the_others(tiny_store, tmp_path):
    data, undisturbed = plans(tiny_store, tmp_path / "one")
    train_runs(data, undisturbed)
    data, disturbed = plans(tiny_store, tmp_path / "two")

    def stop(number, epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(data, disturbed[:1], stop)
    assert train_runs(data, disturbed) == [None] * 4
    assert_same(disturbed, undisturbed)


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone(tiny_store, tmp_path, monkeypatch):
    step = learner.training_loss

    def loss(decoder, *arguments):
        wrong = decoder.decoder_type == "conv-4" and decoder.shape == tiny_store.layers["layer0"]
        return step(decoder, *arguments) * (float("nan") if wrong else 1)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "training_loss", loss)
        data, runs = plans(tiny_store, tmp_path / "one", ALL[:2])
        good, bad = train_runs(data, runs)
    assert good is None and runs[0].folder.is_finished
    assert isinstance(bad, TrainingError) and "loss is nan in epoch 1, step 1" in str(bad)
    assert not runs[1].folder.is_finished
    data, again = plans(tiny_store, tmp_path / "two", ALL[:2])
    train_runs(data, again)
    assert_same(runs[:1], again[:1])


@pytest.mark.slow
def test_one_that_another_process_trains_is_left_to_it(tiny_store, tmp_path):
    data, runs = plans(tiny_store, tmp_path, ALL[:2])
    runs[0].folder.begin(runs[0].config, runs[0].sha256)
    with runs[0].folder.exclusively():
        busy, done = train_runs(data, runs)
    assert isinstance(busy, RunBusyError) and done is None


@pytest.mark.slow
@pytest.mark.parametrize("decoder_type", ["linear", "attention"])
def test_gradients_of_parts_add_up(tiny_store, tmp_path, decoder_type):
    recipe = Recipe(decoder_type, epochs=2, batch_size=5, initialization="pytorch")
    halves = Recipe(
        decoder_type, epochs=2, batch_size=5, micro_batch_size=2, initialization="pytorch"
    )
    data, runs = plans(tiny_store, tmp_path, [("layer1", recipe), ("layer1", halves)])
    assert train_runs(data, runs) == [None, None]
    assert runs[0].folder.path != runs[1].folder.path
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-5)


@pytest.mark.slow
def test_bfloat16_and_compiled_learn_the_same_to_rounding(tiny_store, tmp_path):
    options = {"widths": (8, 8, 4, 4), "epochs": 1, "batch_size": 4, "initialization": "pytorch"}
    recipes = [
        Recipe("conv-4", **options),
        Recipe("conv-4", **options, precision="bfloat16"),
        Recipe("conv-4", **options, compile=True),
    ]
    data, runs = plans(tiny_store, tmp_path, [("layer1", recipe) for recipe in recipes])
    assert train_runs(data, runs) == [None] * 3
    exact, half, compiled = (losses(run)[0] for run in runs)
    assert half == pytest.approx(exact, rel=1e-2) and half != exact
    assert compiled == pytest.approx(exact, rel=1e-4)
    assert all(value.dtype == torch.float32 for value in weights(runs[1]).values() if value.ndim)


def test_a_batch_that_does_not_fit_says_what_to_do(tiny_store, tmp_path, monkeypatch):
    def loss(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learner, "training_loss", loss)
    data, runs = plans(tiny_store, tmp_path, [("layer1", Recipe("conv-4", batch_size=6))])
    with pytest.raises(TrainingError) as caught:
        train_runs(data, runs)
    assert str(caught.value) == (
        "a batch of 6 images does not fit into the memory of cpu; take a `micro_batch_size` of "
        "3, or a smaller `batch_size`"
    )


def test_an_error_of_another_kind_is_not_taken_for_want_of_memory(
    tiny_store, tmp_path, monkeypatch
):
    def loss(*arguments):
        raise RuntimeError("a shape")

    monkeypatch.setattr(learner, "training_loss", loss)
    data, runs = plans(tiny_store, tmp_path, ALL[:1])
    with pytest.raises(RuntimeError, match="a shape"):
        train_runs(data, runs)


def test_a_batch_larger_than_the_split_is_refused(tiny_store, tmp_path):
    with pytest.raises(InputError) as caught:
        plans(tiny_store, tmp_path, [("layer1", Recipe("linear", batch_size=9))])
    assert str(caught.value) == (
        "a batch of 9 images is larger than the training split, which has 8 of noisy; expected a "
        "part of it, take `batch_size=8` or less"
    )
    assert list(tmp_path.iterdir()) == []


def test_masks_without_a_fake_pixel_teach_nothing(tiny_store, tmp_path, monkeypatch):
    black = lambda rows: np.zeros((len(rows), 256, 256), np.uint8)  # noqa: E731
    monkeypatch.setattr(tiny_store, "read_targets", black)
    with pytest.raises(InputError, match="none of the 8 training masks of .* has a fake pixel"):
        plans(tiny_store, tmp_path, ALL[:1])
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_other_processes_reads_nothing(tiny_store, tmp_path):
    said = []
    data = TrainingData([tiny_store], device=CPU, notice=said.append)
    run = plan_run(data, tmp_path, layer="layer1", recipe=LINEAR)
    run.folder.begin(run.config, run.sha256)
    with run.folder.exclusively():
        assert isinstance(train_runs(data, [run])[0], RunBusyError)
    assert said == []


@pytest.mark.slow
def test_a_decoder_of_a_layer_that_is_kept_with_others_reads_nothing_anew(tiny_store, tmp_path):
    said = []
    data = TrainingData([tiny_store], device=CPU, notice=said.append)
    linear = [plan_run(data, tmp_path, layer=f"layer{n}", recipe=LINEAR) for n in range(3)]
    train_runs(data, linear)
    train_runs(data, [plan_run(data, tmp_path, layer="layer1", recipe=CONV)])
    assert [line.split(":")[0] for line in said] == ["layer0, layer1, layer2"]


def test_joined_layers_are_decoded_once_for_all_who_want_them(tiny_store, tmp_path, monkeypatch):
    decoded = []
    decode = StoredFeatures.decoded
    monkeypatch.setattr(
        StoredFeatures, "decoded", lambda stored: decoded.append(1) or decode(stored)
    )
    data = TrainingData([tiny_store], device=CPU)
    recipes = [Recipe("linear", epochs=1, batch_size=8, learning_rate=lr) for lr in (1e-2, 1e-3)]
    runs = [plan_run(data, tmp_path, layer="layer1+layer2", recipe=recipe) for recipe in recipes]
    train_runs(data, runs)
    # Two layers of the training batch, two of the validation's, and again for the thresholds.
    assert len(decoded) == 6


def test_layers_that_do_not_fit_leave_the_others_together(tiny_store, monkeypatch):
    data = TrainingData([tiny_store], device=CPU)
    inputs = [data.inputs(f"layer{n}") for n in range(4)]
    targets = 11 * 256 * 256
    layer = 11 * tiny_store.bytes_per_row("layer0")
    for room, sizes in ((4, [4]), (3, [3, 1]), (2, [2, 2]), (1, [1] * 4), (0.5, [4])):
        free = targets + int(room * layer)
        monkeypatch.setattr(training_data, "fast_bytes", lambda device: free)  # noqa: B023
        groups = data.at_once(inputs, tiny_store.generators)
        assert [len(group) for group in groups] == sizes
    large = tiny_store.bytes_per_row
    monkeypatch.setattr(
        tiny_store, "bytes_per_row", lambda name: large(name) * (9 if name == "layer1" else 1)
    )
    monkeypatch.setattr(training_data, "fast_bytes", lambda device: targets + 4 * layer)
    groups = data.at_once(inputs, tiny_store.generators)
    assert [[one.sources[0].layer for one in group] for group in groups] == [
        ["layer0", "layer2", "layer3"],
        ["layer1"],
    ]
