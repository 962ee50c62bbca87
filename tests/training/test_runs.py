"""A training learns, keeps its best weights, and resumed it ends as an undisturbed one does."""

import json

import numpy as np
import pytest
import torch
import yaml

from declip_pipeline.compute import permutation
from declip_pipeline.decoders.file import load_decoder
from declip_pipeline.errors import (
    IdentityMismatchError,
    InputError,
    OutputExistsError,
    TrainingError,
    UnknownNameError,
)
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.store.reader import Store
from declip_pipeline.training import learner
from declip_pipeline.training import train as training
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run
from declip_pipeline.training.validation import Candidate, validation_ious

CPU = torch.device("cpu")


def run(store, runs, layer="layer1", train_on=None, on_epoch=lambda epoch: None, **changes):
    options = {
        "decoder_type": "conv-4",
        "widths": (8, 8, 4, 4),
        "initialization": "pytorch",
        "epochs": 4,
        "batch_size": 3,
    }
    return train_run(
        TrainingData([store], device=CPU),
        runs,
        layer=layer,
        recipe=Recipe(**(options | changes)),
        train_on=train_on,
        on_epoch=on_epoch,
    )


def without_seconds(folder: Run):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in folder.epochs()]


@pytest.mark.slow
def test_the_loss_falls_and_the_best_weights_are_kept(tiny_store, tmp_path, cpu):
    folder = run(tiny_store, tmp_path, epochs=6)
    records = folder.epochs()
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["train_loss"] < 0.8 * records[0]["train_loss"]
    summary = folder.summary()
    best = max(record["valid_iou"] for record in records)
    assert summary["best_valid_iou"] == best
    assert records[summary["best_epoch"] - 1]["valid_iou"] == best
    assert (summary["train_images"], summary["valid_images"]) == (8, 3)
    decoder, features = load_decoder(folder.best_checkpoint)
    assert features == tiny_store.feature_identity("layer1")
    source = FeatureSource("layer1")
    feed = Feed([(tiny_store, tiny_store.fake_rows("valid"))], [source], device=cpu)
    candidate = Candidate(decoder, lambda inputs: decoder(*inputs), [source])
    assert validation_ious([candidate], feed, 3) == [pytest.approx(best, abs=1e-9)]
    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert config["decoder_type"] == "conv-4"
    assert config["stores"] == [[tiny_store.identity.sha256]]
    assert json.loads((folder.path / "environment.json").read_text())["libraries"]["torch"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_after", "pooling"),
    [(1, None), (2, None), (3, None), (1, "mean"), (2, "max"), (3, "learned")],
)
def test_resumed_at_any_epoch_it_ends_the_same(
    tiny_store, mixed_store, tmp_path, stop_after, pooling
):
    store, options = tiny_store, {}
    if pooling is not None:
        store, options = mixed_store, {"pooling": pooling, "decoder_type": "linear", "widths": None}
    undisturbed = run(store, tmp_path / "one", **options)

    def interrupt(epoch):
        if epoch.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "two", on_epoch=interrupt, **options)
    resumed = run(store, tmp_path / "two", **options)
    assert resumed.path.name == undisturbed.path.name
    assert without_seconds(resumed) == without_seconds(undisturbed)
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tiny_store, tmp_path, monkeypatch):
    first = run(tiny_store, tmp_path)
    monkeypatch.setattr(training, "_one_epoch", None)
    assert run(tiny_store, tmp_path).path == first.path


@pytest.mark.slow
def test_seeds_and_settings_have_folders_of_their_own(tiny_store, tmp_path):
    names = {
        run(tiny_store, tmp_path, epochs=1, **changes).path.name
        for changes in ({}, {"seed": 1}, {"learning_rate": 1e-4}, {"layer": "layer0"})
    }
    assert len(names) == 4


def test_unknown_names_list_the_known_ones(tiny_store, tmp_path):
    with pytest.raises(UnknownNameError, match="'layer9'; .*known: layer0, layer1, layer2, layer3"):
        run(tiny_store, tmp_path, layer="layer9")
    with pytest.raises(UnknownNameError, match="'conv4'; did you mean 'conv-4'"):
        run(tiny_store, tmp_path, decoder_type="conv4")
    with pytest.raises(UnknownNameError, match="generator .*'lama'; known: noisy"):
        run(tiny_store, tmp_path, train_on=["lama"])
    with pytest.raises(InputError, match="no store was given"):
        TrainingData([], device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_stores_of_different_features_do_not_mix(tiny_store):
    other = Store(tiny_store.location)
    object.__setattr__(other.identity, "weights_sha256", "0" * 64)
    assert other.identity.sha256 != tiny_store.identity.sha256
    with pytest.raises(IdentityMismatchError, match="^weights_sha256 differs"):
        TrainingData([tiny_store, other], device=CPU).inputs("layer0")


def test_a_store_given_twice_is_refused(tiny_store, cpu):
    with pytest.raises(InputError, match="a store was given twice; give each once"):
        TrainingData([tiny_store, Store(tiny_store.location)], device=cpu)


def test_a_damaged_summary_says_what_to_do(tiny_store, tmp_path):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary.json is damaged .*; remove that file and run"):
        folder.summary()
    # Which is true: the training goes on after its last epoch, and sums up again.
    (folder.path / "summary.json").unlink()
    assert run(tiny_store, tmp_path, epochs=1).summary()["epochs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("config.yaml", b"", "damaged (keys and values expected, found NoneType)"),
        ("config.yaml", b"seed: 0\n", "damaged (train_on is missing)"),
        ("config.yaml", b"caf\xe9: 1\n", "damaged ('utf-8' codec"),
        ("summary.json", b"[]", "damaged (keys and values expected, found list)"),
        ("summary.json", b'{"best_valid_iou": "x"}', "damaged (best_valid_iou is of type str)"),
        ("checkpoint_best.safetensors", None, "missing; remove the folder and run the same"),
        ("checkpoint_best.safetensors", b"{}", "damaged ("),
    ],
)
def test_a_damaged_run_says_what_to_do(tiny_store, tmp_path, cpu, name, content, found):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        evaluate(folder, tiny_store, device=cpu)
    assert str(caught.value).startswith(f"{folder.path}: its {name} is {found}")
    assert "run the same `declip-pipe train` command again" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("checkpoint_last.pt", b"torn", "checkpoint_last.pt is damaged"),
        ("metrics.jsonl", b"{", "metrics.jsonl is damaged"),
        ("metrics.jsonl", b"", "metrics.jsonl is damaged .it lacks epochs before 2"),
        ("checkpoint_best.safetensors", None, "checkpoint_best.safetensors is missing"),
    ],
)
def test_a_damaged_state_is_not_gone_on_with(tiny_store, tmp_path, name, content, found):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").unlink()
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{found}.*; remove the folder and run the same"):
        run(tiny_store, tmp_path, epochs=1)


def test_a_generator_given_twice_is_one(tiny_store, tmp_path):
    once = run(tiny_store, tmp_path, epochs=1, train_on=["noisy"])
    assert run(tiny_store, tmp_path, epochs=1, train_on=["noisy", "noisy"]).path == once.path


def test_the_names_of_many_generators_fit_a_folder(tiny_store, tmp_path, monkeypatch):
    names = [f"generator {number} of a long list" for number in range(40)]
    generators = [names[row % 40] for row in range(len(tiny_store.samples))]
    samples = tiny_store.samples.replace(generator=generators)
    monkeypatch.setattr(tiny_store, "samples", samples)
    folder = run(tiny_store, tmp_path, epochs=1, train_on=tiny_store.generators)
    assert len(folder.path.name) < 200
    assert folder.path.name.startswith("conv-4_layer1_generator-0-of-a-long-list+generator-1-of")
    assert folder.config()["train_on"] == tiny_store.generators


def test_stores_without_the_two_splits_are_refused(tiny_store, tmp_path, monkeypatch):
    samples = tiny_store.samples.replace(split=["all"] * len(tiny_store.samples))
    monkeypatch.setattr(tiny_store, "samples", samples)
    with pytest.raises(InputError) as caught:
        run(tiny_store, tmp_path)
    assert "has the split all; training needs the splits train and valid, extract" in str(
        caught.value
    )
    assert "`assign_splits=(80, 10, 10)`" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_run_in_the_folder_is_refused(tiny_store, tmp_path):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").unlink()
    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    (folder.path / "config.yaml").write_text(yaml.safe_dump(config | {"run_sha256": "0"}))
    with pytest.raises(OutputExistsError, match="holds another run; name another output folder"):
        run(tiny_store, tmp_path, epochs=1)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(
    tiny_store, tmp_path, monkeypatch
):
    real_loss = learner.training_loss
    steps = []

    def loss(decoder, inputs, targets):
        steps.append(len(targets))
        return real_loss(decoder, inputs, targets) * (np.nan if len(steps) > 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(learner, "training_loss", loss)
        with pytest.raises(
            TrainingError,
            match=r"loss is nan in epoch 2, step 2 \(.*\); the state after epoch 1 is",
        ) as caught:
            run(tiny_store, tmp_path)
    # Three steps an epoch: the fifth is the second of its epoch.
    step = permutation(8, 0, "epoch", 2)[3:6]
    ids = [tiny_store.samples[tiny_store.fake_rows("train")[n]].id for n in step]
    assert f"({', '.join(ids)})" in str(caught.value)
    resumed = run(tiny_store, tmp_path)
    undisturbed = run(tiny_store, tmp_path / "other")
    assert without_seconds(resumed) == without_seconds(undisturbed)


def test_what_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a run; expected a folder that `declip-pipe tra"):
        Run(tmp_path).summary()


def test_all_but_the_config_is_written_under_the_lock(tmp_path):
    # Who has the lock clears away what looks left over; it must be nobody's who is at work.
    folder = Run(tmp_path / "run")
    folder.begin({"train_on": [], "inputs": []}, "0")
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]
    left = folder.path / ".metrics.0123.partial.jsonl"
    left.write_text("killed while writing")
    with folder.exclusively():
        assert (folder.path / "environment.json").is_file() and not left.exists()
