"""`declip-pipe train` with several layers and backbones in one decoder, from a file, and logged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.store.reader import Store

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_RN = GOLDEN / "tiny_rn_openai.pt"
QUICK = ("--epochs", 2, "--batch-size", 4, "--initialization", "pytorch", "--lr", "1e-2")


def resnet_store(dataset, root, **options):
    opened = open_dataset(dataset, **options)
    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_RN)], device="cpu")
    extraction = extract_store(
        opened,
        backbone,
        layers=["layer2", "layer3"],
        root=root,
        provenance={"arch": "CLIP:from-file", "weights": [str(TINY_RN)]},
    )
    return Store(extraction.location)


@pytest.fixture(scope="module")
def beside(shared_dataset, tmp_path_factory):
    """The tiny ResNet's features of the same images."""
    return resnet_store(shared_dataset, tmp_path_factory.mktemp("cache"))


def config_of(run):
    import yaml

    return yaml.safe_load((Path(run) / "config.yaml").read_text())


def test_layers_are_joined_and_their_weights_reported(program, tiny_store, tmp_path):
    command = ("train", tiny_store.location, "--decoder-type", "linear", *QUICK, "-o", tmp_path)
    joined = program(*command, "--feature-layer", "layer1+2+layer3").last_line
    features = config_of(joined)["features"]
    assert [part["layer"] for part in features["parts"]] == ["layer1", "layer2", "layer3"]
    assert features["fusion"] == "concat"
    assert "linear_layer1+layer2+layer3_all_seed0_" in joined
    outcome = program(*command, "--feature-layer", "layer1+layer2", "--fusion", "weighted")
    weights = json.loads((Path(outcome.last_line) / "summary.json").read_text())["layer_weights"]
    assert list(weights) == ["layer1", "layer2"]
    assert sum(weights.values()) == pytest.approx(1) and weights["layer1"] != 0.5
    assert f"weight of layer1: {weights['layer1']:.3f}" in outcome.err
    for run in (joined, outcome.last_line):
        assert "IoU" in program("evaluate", run, "--on", tiny_store.location).out


@pytest.mark.slow
def test_backbones_are_joined_from_store_to_prediction(
    program, refused, tiny_store, beside, tmp_path, shared_dataset
):
    run = program(
        "train", tiny_store.location, "--feature-layer", "layer1", "--beside",
        f"{beside.location}:layer3", "--decoder-type", "linear", *QUICK, "-o", tmp_path / "runs",
    ).last_line  # fmt: skip
    parts = config_of(run)["features"]["parts"]
    assert [(part["layer"], part["shape"]["height"]) for part in parts] == [
        ("layer1", 16),
        ("layer3", 14),
    ]
    on = ("--on", tiny_store.location)
    outcome = program("evaluate", run, *on, "--beside", beside.location)
    assert "IoU" in outcome.out
    # What the store gives, a prediction gives from the image.
    sample = tiny_store.samples[tiny_store.fake_rows("test")[0]]
    picture = next(shared_dataset.rglob(Path(sample.image).name))
    table = program("predict", run, "-i", picture, "-o", tmp_path / "out").last_line
    lines = (Path(run) / "evaluations").rglob("per_image.csv")
    stored = [line.split(",") for line in next(lines).read_text().splitlines()]
    score = next(row[stored[0].index("score")] for row in stored if row[0] == sample.id)
    found = [line.split(",") for line in Path(table).read_text().splitlines()]
    assert float(found[1][found[0].index("score")]) == pytest.approx(float(score), abs=1e-4)
    line = refused("evaluate", run, *on)
    assert "was trained on layer3 of" in line and "give a store of it with --beside" in line


@pytest.mark.slow
def test_stores_of_other_pictures_do_not_stand_beside(
    refused, tiny_store, beside, shared_dataset, tmp_path
):
    other = resnet_store(shared_dataset, tmp_path / "cache", splits=["train"])
    command = ("train", tiny_store.location, "--feature-layer", "layer1", "-o", tmp_path / "runs")
    line = refused(*command, "--beside", f"{other.location}:layer3")
    assert "cannot stand beside" in line and "its images are others; expected a store of" in line
    assert "unknown layer" in refused(*command, "--beside", f"{beside.location}:layer9")
    for text in (beside.location, ":layer3", "store:"):
        assert "expected STORE:LAYER" in refused(*command, "--beside", text)
    line = refused(
        *command, "--beside", f"{beside.location}:layer2", "--fusion", "weighted", *QUICK
    )  # fmt: skip
    assert "a weighted sum of features of 128, 64 channels; expected as many in each" in line
    line = refused(*command, "--feature-layer", "layer1+layer1")
    assert "layer1 of " in line and "is given twice; give each layer once" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_rows_beside_are_those_of_the_same_pictures(tiny_store, beside, cpu, monkeypatch):
    # As of a store that grew: the same samples in another order.
    turned = Store(beside.location)
    order = list(reversed(range(len(turned.samples))))
    monkeypatch.setattr(turned, "samples", turned.samples.take(order))
    read = turned.read_layer
    monkeypatch.setattr(
        turned,
        "read_layer",
        lambda layer, rows: read(layer, [order[row] for row in rows]),
    )
    rows = tiny_store.fake_rows("train")
    fed = []
    for store in (beside, turned):
        source = FeatureSource("layer3", (store,))
        positions = np.asarray([4, 0, 7, 2])
        (batch,) = Feed([(tiny_store, rows)], [source], device=cpu).batches(positions, 64)
        fed.append(batch.features(source))
    assert torch.equal(*fed)


@pytest.mark.slow
def test_a_grid_comes_from_a_file(program, refused, tiny_store, tmp_path):
    config = tmp_path / "grid.yaml"
    config.write_text(
        "layers: [1, layer2, layer0+layer1]\ndecoders: linear\nseeds: [3, 4]\n"
        "learning_rate: [1.0e-2]\ntrain_on: [[noisy]]\nepochs: 1\nbatch_size: 4\n"
        "initialization: pytorch\n"
    )
    command = ("train", tiny_store.location, "--config", config, "-o", tmp_path / "runs")
    rows = Path(program(*command).last_line).read_text().splitlines()
    assert len(rows) == 1 + 6
    assert rows[1].startswith('"layer1","linear",3,0.01,"noisy","finished"')
    # What the command line says wins.
    run = program(*command, "--seed", 5, "--layers", "layer1").last_line
    assert "linear_layer1_noisy_seed5_" in run
    assert config_of(run)["initialization"] == "pytorch"
    config.write_text("layer: all\n")
    assert "unknown key in" in (line := refused(*command)) and "did you mean 'layers'" in line
    config.write_text("layers: all\nepochs: 0\n")
    line = refused(*command)
    assert "epochs: found 0; Input should be greater than or equal to 1" in line
    config.write_text("layers: [true]\n")
    line = refused(*command)
    assert "layers: found [True]; Input should be a valid" in line and "StrictInt" not in line
    assert "cannot be read" in refused(*command[:2], "--config", tmp_path / "absent.yaml")


def test_tensorboard_shows_what_metrics_jsonl_holds(program, refused, tiny_store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = (
        "train", tiny_store.location, "--feature-layer", "layer1", "--decoder-type", "linear",
        *QUICK, "-o", tmp_path, "--tensorboard",
    )  # fmt: skip
    run = Path(program(*command).last_line)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for name in ("train_loss", "valid_iou", "learning_rate"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == [(r["epoch"], pytest.approx(r[name], rel=1e-6)) for r in records]


def test_without_tensorboard_a_line_says_what_to_do(refused, tiny_store, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refused(
        "train", tiny_store.location, "--feature-layer", "layer1", "-o", tmp_path / "runs",
        "--tensorboard",
    )  # fmt: skip
    assert "TensorBoard is not installed; pip install 'declip-pipe[tensorboard]'" in line
    assert not (tmp_path / "runs").exists()
