"""`declip-pipe evaluate --views`: a decoder of clean images on other views of them."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from declip_pipeline.evaluation.metrics import PROTOCOL
from declip_pipeline.store.reader import Store

VIEWS = "clean,jpeg:60,jpeg:20,blur:2"


@pytest.fixture
def stores(program, shared_dataset, tiny_arch, tmp_path):
    command = ("extract", shared_dataset, *tiny_arch, "--layers", "layer1", "--split", "test")
    outcome = program(*command, "--cache", tmp_path / "cache", "--views", VIEWS)
    assert outcome.code == 0, outcome.err
    return outcome.out.split()


@pytest.mark.slow
def test_robustness_is_a_table_a_file_and_a_figure(program, stores, tiny_run):
    outcome = program("evaluate", tiny_run, "--on", stores[0], "--views", "jpeg:20,blur:2")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].endswith(" on noisy, test: IoU (percent) by view")
    assert lines[1] == PROTOCOL
    assert [line.split()[0] for line in lines[2:-1]] == ["view", "clean", "jpeg:20", "blur:2"]
    assert all(re.search(r"\d [ ]*\[[\d.]+, [\d.]+\]$", line) for line in lines[3:-1]), lines
    figure = Path(outcome.last_line)
    with Image.open(figure) as picture:
        assert picture.width > 600
    with (figure.parent / "robustness.csv").open(newline="") as file:
        rows = {row["view"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["clean", "jpeg:20", "blur:2"]
    # Each is what the view's own store gives.
    alone = program("evaluate", tiny_run, "--on", stores[2]).out
    assert f"IoU {float(rows['jpeg:20']['iou']):.2f} [" in alone
    assert rows["jpeg:20"]["iou"] != rows["clean"]["iou"]
    clean = program("evaluate", tiny_run, "--on", stores[0]).out
    assert f"IoU {float(rows['clean']['iou']):.2f} [" in clean
    everything = program("evaluate", tiny_run, "--on", stores[0], "--views", "all").out
    assert [line.split()[0] for line in everything.splitlines()[3:-1]] == [
        *("clean", "jpeg:60", "jpeg:20", "blur:2")
    ]


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_refused_and_how_to_make_it_named(
    program, refused, stores, tiny_run
):
    evaluation = ("evaluate", tiny_run, "--on")
    assert "'sepia' is not known" in refused(*evaluation, stores[0], "--views", "sepia:1")
    assert "expected the clean store" in refused(*evaluation, stores[1], "--views", "all")
    assert "has an empty item" in refused(*evaluation, stores[0], "--views", "jpeg:60,")
    line = refused(*evaluation, stores[0], "--views", "all", "--generators", "ldm")
    assert "unknown generator in the stores 'ldm'" in line
    line = refused("evaluate", tiny_run, "--on", stores[0], "--views", "jpeg:60,noise:9")
    assert "no complete store of the view noise:9 beside" in line
    command = re.search(r"`declip-pipe (.*)`", line)
    assert command is not None
    made = program(*command[1].split())
    assert made.code == 0, made.err
    assert Store(made.last_line).identity.view == "noise-9"
    outcome = program("evaluate", tiny_run, "--on", stores[0], "--views", "jpeg:60,noise:9")
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_a_decoder_of_several_stores_sees_the_same_view_in_each(
    program, refused, shared_dataset, tiny_arch, tmp_path
):
    def extract(layer, cache, views):
        command = ("extract", shared_dataset, *tiny_arch, "--layers", layer, "--views", views)
        return program(*command, "--cache", tmp_path / cache).out.split()

    one, one_blurred = extract("layer1", "one", "clean,blur:2")
    (other,) = extract("layer2", "other", "clean")
    training = ("train", one, "--feature-layer", "layer1", "--decoder-type", "linear")
    training += ("--epochs", 1, "--batch-size", 8, "-o", tmp_path / "runs")
    run = program(*training, "--beside", f"{other}:layer2").last_line
    evaluation = ("evaluate", run, "--on", one, "--beside", other, "--views", "blur:2")
    line = refused(*evaluation)
    assert f"no complete store of the view blur:2 beside {other}; make it" in line
    (other_blurred,) = extract("layer2", "other", "blur:2")
    outcome = program(*evaluation)
    assert outcome.code == 0, outcome.err
    with (Path(outcome.last_line).parent / "robustness.csv").open(newline="") as file:
        ious = {row["view"]: float(row["iou"]) for row in csv.DictReader(file)}
    alone = program("evaluate", run, "--on", one_blurred, "--beside", other_blurred).out
    assert f"IoU {ious['blur:2']:.2f} [" in alone

    # Each run of a comparison takes the stores that it was trained on.
    plain = program(*training).last_line
    compared = program("compare", run, plain, "--on", one, "--on", other)
    assert compared.code == 0, compared.err
    assert re.search(r"^noisy +4  IoU", compared.out, re.M)


@pytest.mark.slow
def test_runs_of_several_seeds_have_a_table_over_them(program, stores, tiny_store, tmp_path):
    training = (
        "train",
        tiny_store.location,
        "--feature-layer",
        "layer1",
        "--decoder-type",
        "linear",
    )
    training += ("--epochs", 1, "--batch-size", 8, "-o", tmp_path / "runs")
    one, two = (program(*training, "--seed", seed).last_line for seed in (1, 2))
    other = program(*training, "--seed", 1, "--lr", "1e-2").last_line
    outcome = program("evaluate", one, two, other, "--on", stores[0], "--views", "jpeg:20")
    assert outcome.code == 0, outcome.err
    *_, title, _, header, clean, jpeg = outcome.out.splitlines()
    assert title.endswith(" on noisy, test, over 2 seeds (1, 2): IoU (percent) by view")
    assert outcome.out.count("over 2 seeds") == 1
    assert header.split() == ["view", "noisy"]
    for line, store in ((clean, stores[0]), (jpeg, stores[2])):
        found = program("evaluate", one, two, "--on", store).out
        mean = re.search(r"over 2 seeds \(1, 2\)\n  noisy: IoU (\S+ ± \S+ \[\S+ \S+\])", found)
        assert mean is not None
        assert line.split(maxsplit=1)[1] == mean[1]
    assert [clean.split()[0], jpeg.split()[0]] == ["clean", "jpeg:20"]
