"""`--normalize` and the light decoders, as a user runs them."""

import csv
import re
from pathlib import Path

import pytest
import torch
import yaml

from declip_pipeline.exchange.published_file import read_published
from declip_pipeline.training.run import Run

QUICK = ("--epochs", 1, "--batch-size", 4, "--lr", "1e-2")


def config_of(run):
    return yaml.safe_load((Path(run) / "config.yaml").read_text())


def test_decoders_and_normalizations_are_in_the_help(program):
    text = " ".join(program("train", "--help").out.replace("│", " ").split())
    assert "--normalize" in text
    assert "Default: channel for mlp, fcn, pup, instance for lda; else none, as published." in text
    assert "mlp, fcn, pup, patch-forensics" in text


@pytest.mark.slow
def test_a_grid_of_light_decoders_is_evaluated_and_predicts(
    program, refused, tiny_store, shared_dataset, tmp_path
):
    command = ("train", tiny_store.location, *QUICK, "-o", tmp_path / "runs")
    layers = ("--layers", "layer1,layer0+layer2")
    outcome = program(*command, *layers, "--decoders", "mlp,fcn,pup")
    assert outcome.code == 0, outcome.err
    assert len(Path(outcome.last_line).read_text().splitlines()) == 1 + 6
    one = ("--layers", "layer0+layer2", "--decoders", "pup", "--widths", "16,8,4")
    run = program(*command, *one).last_line
    assert Run(run).is_finished
    assert config_of(run)["normalize"] == "channel"
    assert config_of(run)["widths"] == [16, 8, 4] == list(Run(run).decoder().widths)
    # What evaluation computes from the store, prediction computes from the image.
    assert program("evaluate", run, "--on", tiny_store.location).code == 0
    sample = tiny_store.samples[tiny_store.fake_rows("test")[0]]
    image = next(shared_dataset.rglob(Path(sample.image).name))
    table = program("predict", run, "-i", image, "-o", tmp_path / "out").last_line
    (predicted,) = csv.DictReader(Path(table).read_text().splitlines())
    stored = next((Path(run) / "evaluations").rglob("per_image.csv")).read_text().splitlines()
    (evaluated,) = [row for row in csv.DictReader(stored) if row["id"] == sample.id]
    assert float(predicted["score"]) == pytest.approx(float(evaluated["score"]), abs=1e-3)
    line = refused("export", run, "--checkpoint", tmp_path / "published.pth")
    assert "joins layer0 of " in line


@pytest.mark.slow
def test_a_normalized_linear_decoder_is_exported_as_a_plain_one(
    program, refused, tiny_store, tmp_path
):
    command = ("train", tiny_store.location, *QUICK, "-o", tmp_path, "--feature-layer", "layer1")
    run = program(*command, "--decoder-type", "linear", "--normalize", "channel").last_line
    file = tmp_path / "published.pth"
    assert program("export", run, "--checkpoint", file).last_line == str(file)
    published, decoder = read_published(file), Run(run).decoder()
    weight, bias = published.decoder["fc.0.weight"], published.decoder["fc.0.bias"]
    assert len(published.decoder) == 2
    features = tiny_store.read_layer("layer1", tiny_store.fake_rows("test")).decoded()
    tokens = decoder.without_prefix(features @ weight.T + bias).squeeze(2)
    with torch.inference_mode():
        expected = decoder.position_logits(decoder.joined(features)).flatten(1)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)

    narrow = ("--decoder-type", "conv-4", "--widths", "8,8,4,4")
    for options, wanted in (
        ((*narrow, "--normalize", "channel"), "--normalize channel, .* not have for conv-4; "),
        (("--decoder-type", "linear", "--normalize", "layernorm"), "--normalize layernorm, .*"),
        (("--decoder-type", "fcn"), "is of fcn, which the published format does not have; "),
    ):
        run = program(*command, *options).last_line
        line = refused("export", run, "--checkpoint", tmp_path / "no.pth")
        assert re.search(wanted, line), line
        assert "export it with --onnx" in line
    assert not (tmp_path / "no.pth").exists()


def test_a_normalization_that_is_not_there_is_refused(refused, tiny_store, tmp_path):
    command = ("train", tiny_store.location, *QUICK, "-o", tmp_path, "--feature-layer", "layer1")
    line = refused(*command, "--normalize", "batch")
    assert "'batch' is not one of 'none', 'channel', 'instance', 'layernorm'" in line
    line = refused(*command, "--decoder-type", "probe", "--normalize", "channel")
    assert "leave out --normalize" in line
