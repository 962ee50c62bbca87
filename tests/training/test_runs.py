"""A training learns, keeps its best weights, and resumed it ends as an undisturbed one does."""

import json
import os
import re
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

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
from declip_pipeline.extraction.extract import extract
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.store.reader import Store
from declip_pipeline.training import learner, run_files
from declip_pipeline.training import side_by_side as training
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.run_records import sealed
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


def test_a_store_given_twice_is_taken_once(tiny_store, cpu):
    said = []
    data = TrainingData([tiny_store, Store(tiny_store.location)], device=cpu, notice=said.append)
    assert data.stores == [tiny_store]
    assert said == [f"given more than once, taken once: {tiny_store.location}"]


def test_a_store_of_the_same_images_in_another_dtype_is_refused(tiny_store, store_in, cpu):
    other = store_in("int8")
    data = TrainingData([tiny_store, other], device=cpu)
    count = len(tiny_store.fake_rows("train", tiny_store.generators))
    line = re.escape(
        f"{other.location} (int8) and {tiny_store.location} (float16) hold the same images of "
        f"split 'train' in the same view: {count} would count twice; give one of them"
    )
    with pytest.raises(InputError, match=line):
        data.rows("train", data.generators)


def test_images_that_two_stores_share_are_said_once(
    tiny_store, shared_dataset, tiny_backbone, tmp_path, cpu
):
    """Where each store has images of its own as well."""
    own = shutil.copytree(shared_dataset, tmp_path / "noisy")
    changed = next((own / "images" / "train").iterdir())
    pixels = np.asarray(Image.open(changed))
    Image.fromarray(255 - pixels).save(changed)
    said = []
    store = extract(own, tiny_backbone, cache=tmp_path / "cache")
    data = TrainingData([tiny_store, store], device=cpu, notice=said.append)
    shared = len(tiny_store.fake_rows("train", tiny_store.generators)) - 1
    data.rows("train", data.generators)
    data.rows("train", ["noisy", "noisy"])
    assert said == [
        f"{shared} images of split 'train' are in {store.location} and in {tiny_store.location}; "
        "they count twice"
    ]


def test_a_damaged_summary_says_what_to_do(tiny_store, tmp_path):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary.json is damaged .*, or remove it and run"):
        folder.summary()
    # Which is true: the training goes on after its last epoch, and sums up again.
    (folder.path / "summary.json").unlink()
    assert run(tiny_store, tmp_path, epochs=1).summary()["epochs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("config.yaml", b"", "damaged (keys and values expected, found NoneType)"),
        ("config.yaml", b"seed: 0\n", "damaged (layer is missing)"),
        ("config.yaml", b"caf\xe9: 1\n", "damaged ('utf-8' codec"),
        ("config.yaml", b"[" * 9999, "damaged (maximum recursion depth"),
        ("summary.json", b"[]", "damaged (keys and values expected, found list)"),
        ("summary.json", b'{"best_valid_iou": "x"}', "damaged (best_epoch is missing)"),
        ("summary.json", b"[" * 99999, "damaged (maximum recursion depth"),
        ("checkpoint_best.safetensors", None, "missing; restore it, or remove the folder and"),
        ("checkpoint_best.safetensors", b"{}", "damaged (its SHA-256 is 44136fa355b3..., record"),
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


@pytest.mark.parametrize(
    ("name", "edit", "found"),
    [
        ("config.yaml", {"train_on": ["lama"]}, "it was edited, its content is not that of its"),
        ("config.yaml", {"learning_rate": float("nan")}, "learning_rate is 'nan', expected a fin"),
        ("config.yaml", {"train_on": date(2024, 1, 1)}, "train_on is '2024-01-01', expected a li"),
        ("config.yaml", {"inputs": [{"dtype": 16}]}, "expected a list, each a dtype and a prov"),
        ("config.yaml", {"note": date(2024, 1, 1)}, "Object of type date is not JSON serial"),
        ("config.yaml", {"record_sha256": None}, "it was edited"),
        ("summary.json", {"best_valid_iou": 99.0}, "it was edited"),
        ("summary.json", {"best_valid_iou": float("nan")}, "best_valid_iou is 'nan', expected a"),
        ("summary.json", {"best_epoch": True}, "best_epoch is 'True', expected a whole number"),
        ("summary.json", {"files": {"checkpoint_best.safetensors": 1}}, "files is "),
    ],
)
def test_an_edited_record_is_refused(tiny_run, tmp_path, name, edit, found):
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    read, write = (
        (yaml.safe_load, yaml.safe_dump) if name == "config.yaml" else (json.loads, json.dumps)
    )
    (copy / name).write_text(write({**read((copy / name).read_text()), **edit}))
    with pytest.raises(InputError, match=f"its {name} is damaged .*{re.escape(found)}"):
        Run(copy).summary()


def test_a_record_without_its_hash_is_refused(tiny_run, tmp_path):
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    summary = json.loads((copy / "summary.json").read_text())
    del summary["record_sha256"]
    (copy / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="record_sha256 is missing: it was written by an earlier"):
        Run(copy).summary()


def test_the_record_of_another_run_is_refused(tiny_store, tmp_path):
    one, other = (run(tiny_store, tmp_path, epochs=1, seed=seed) for seed in (0, 1))
    shutil.copy(other.path / "summary.json", one.path / "summary.json")
    with pytest.raises(InputError, match="summary.json is damaged .it is of another run than conf"):
        one.summary()


@pytest.mark.parametrize("name", ["checkpoint_best.safetensors", "metrics.jsonl"])
def test_a_flipped_bit_is_found_in_a_finished_run(tiny_run, tmp_path, name):
    copy = Run(shutil.copytree(tiny_run, tmp_path / "copy"))
    flip_a_bit(copy.path / name)
    with pytest.raises(InputError, match=f"its {name} is damaged .its SHA-256 is "):
        copy.decoder() if name.endswith("safetensors") else copy.epochs()


@pytest.mark.parametrize("name", ["checkpoint_best.safetensors", "checkpoint_last.pt"])
def test_a_flipped_bit_is_found_before_a_run_goes_on(tiny_store, tmp_path, name):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").unlink()
    flip_a_bit(folder.path / name)
    with pytest.raises(InputError, match=f"its {name} is damaged .its SHA-256 is "):
        run(tiny_store, tmp_path, epochs=1)


@pytest.mark.parametrize("damage", ["flip", "pipe", "remove"])
def test_a_finished_run_whose_weights_are_damaged_is_not_taken_for_finished(
    tiny_store, tmp_path, damage
):
    folder = run(tiny_store, tmp_path, epochs=1)
    weights = folder.best_checkpoint
    if damage == "flip":
        flip_a_bit(weights)
    else:
        weights.unlink()
        if damage == "pipe":
            os.mkfifo(weights)
    found = "damaged" if damage == "flip" else "missing"
    with pytest.raises(InputError, match=f"its checkpoint_best.safetensors is {found}"):
        run(tiny_store, tmp_path, epochs=1)
    with pytest.raises(InputError, match=f"its checkpoint_best.safetensors is {found}"):
        folder.decoder()


def test_a_record_of_aliases_of_aliases_is_refused_at_once(tiny_run, tmp_path):
    copy = Run(shutil.copytree(tiny_run, tmp_path / "copy"))
    levels = ["&s0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"&s{n} [{', '.join([f'*s{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = (copy.path / "config.yaml").read_text()
    bomb = "\n".join(f"- {level}" for level in levels)
    (copy.path / "config.yaml").write_text(f"{text}extra:\n{bomb}\n")
    with pytest.raises(InputError, match="config.yaml is damaged .it holds aliases of aliases"):
        copy.config()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(8))
def test_killed_while_an_epoch_is_kept_it_ends_the_same(tiny_store, tmp_path, monkeypatch, step):
    undisturbed = run(tiny_store, tmp_path / "one", epochs=3)
    # Of the second epoch: three files beside their places, the record, three renames.
    steps = []

    def stop_at(name, function):
        def counted(*arguments):
            in_second = name != "begin" and any(tmp_path.glob("two/*/state.json"))
            if in_second:
                steps.append(name)
                if len(steps) == step + 1:
                    raise KeyboardInterrupt
            return function(*arguments)

        return counted

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_json"):
            patch.setattr(run_files, name, stop_at(name, getattr(run_files, name)))
        patch.setattr(Path, "replace", stop_at("replace", Path.replace))
        with pytest.raises(KeyboardInterrupt):
            run(tiny_store, tmp_path / "two", epochs=3)
    (folder,) = (tmp_path / "two").iterdir()
    # An epoch that is done again may come out otherwise on a GPU: what is kept is of one epoch.
    state = Run(folder).load_state()
    assert state is not None and len(Run(folder).epochs()) == state["epoch"]
    best, _ = Run(folder).best_decoder()
    if state["best_epoch"] == state["epoch"]:
        for name, value in best.state_dict().items():
            assert torch.equal(value, state["learner"]["decoder"][name])
    resumed = run(tiny_store, tmp_path / "two", epochs=3)
    assert without_seconds(resumed) == without_seconds(undisturbed)
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("checkpoint_last.pt", b"torn", "checkpoint_last.pt is damaged"),
        ("metrics.jsonl", b"{", "metrics.jsonl is damaged"),
        ("metrics.jsonl", b"", "metrics.jsonl is damaged .its SHA-256 is"),
        ("state.json", None, "state.json is missing"),
        ("state.json", b"{}", "state.json is damaged .epoch is missing"),
        ("state.json", b'{"epoch": NaN}', "state.json is damaged .epoch is 'nan', expected a wh"),
        ("checkpoint_best.safetensors", None, "checkpoint_best.safetensors is missing"),
    ],
)
def test_a_damaged_state_is_not_gone_on_with(tiny_store, tmp_path, name, content, found):
    folder = run(tiny_store, tmp_path, epochs=1)
    (folder.path / "summary.json").unlink()
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{found}.*, or remove the folder and run the same"):
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


def test_a_store_that_lost_other_images_gives_another_run(tiny_store, tmp_path, monkeypatch):
    # The store's name says what it should hold, not what could be read.
    whole = run(tiny_store, tmp_path, epochs=1)
    lost = {"train": int(tiny_store.fake_rows("train")[0]), "test": tiny_store.fake_rows("test")[0]}
    monkeypatch.setattr(tiny_store, "failures", {lost["train"]: "truncated"})
    fewer = run(tiny_store, tmp_path, epochs=1)
    assert fewer.path != whole.path
    assert (whole.summary()["train_images"], fewer.summary()["train_images"]) == (8, 7)
    assert fewer.config()["failures"] == [{"train": [tiny_store.samples[lost["train"]].id]}]
    # Of images that no training sees, nothing changes.
    monkeypatch.setattr(tiny_store, "failures", {int(lost["test"]): "truncated"})
    assert run(tiny_store, tmp_path, epochs=1).path == whole.path


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
    other = sealed(folder.config() | {"run_sha256": "0" * 64})
    (folder.path / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(OutputExistsError, match="holds another run; name another output folder"):
        run(tiny_store, tmp_path, epochs=1)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(
    tiny_store, tmp_path, monkeypatch
):
    real_loss = learner.training_loss
    steps = []

    def loss(*arguments):
        steps.append(1)
        return real_loss(*arguments) * (np.nan if len(steps) > 4 else 1)

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


def test_all_but_the_config_is_written_under_the_lock(tmp_path, tiny_run):
    # Who has the lock clears away what looks left over; it must be nobody's who is at work.
    folder = Run(tmp_path / "run")
    config = Run(tiny_run).config()
    folder.begin(config, config["run_sha256"])
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]
    left = folder.path / ".metrics.0123.partial.jsonl"
    left.write_text("killed while writing")
    with folder.exclusively():
        assert (folder.path / "environment.json").is_file() and not left.exists()
