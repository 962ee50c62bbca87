"""`declip-pipe train` with several layers, decoders or seeds: a grid, its table, its refusals."""

import csv
from pathlib import Path

import pytest

from stages.grid_screen import grid_table

QUICK = ("--epochs", 1, "--batch-size", 4)


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_grid_trains_all_and_says_so_again(program, tiny_store, tmp_path):
    grid = (
        "--layers",
        "0-1",
        "--decoders",
        "linear,conv-4",
        "--widths",
        "8,8,4,4",
        "--seeds",
        "0,1",
    )
    command = ("train", tiny_store.location, *grid, *QUICK, "-o", tmp_path)
    outcome = program(*command)
    assert outcome.code == 0, outcome
    rows = rows_of(outcome.last_line)
    assert [(row["layer"], row["decoder_type"], row["seed"]) for row in rows] == [
        (layer, decoder, seed)
        for layer in ("layer0", "layer1")
        for decoder in ("linear", "conv-4")
        for seed in ("0", "1")
    ]
    assert {row["state"] for row in rows} == {"finished"}
    assert outcome.err.count(": best validation IoU") == 8
    assert "8 of 8 runs done" in outcome.err and "held in memory" in outcome.err
    again = program(*command)
    assert again.last_line == outcome.last_line
    assert rows_of(again.last_line) == rows
    assert "held in memory" not in again.err, "finished runs need no features"
    # One of its runs is the run that the same options alone give.
    one = program(
        "train", tiny_store.location, "--feature-layer", "layer1", "--decoder-type", "linear",
        "--seed", 1, *QUICK, "-o", tmp_path,
    )  # fmt: skip
    assert "finished already" in one.err
    assert one.last_line == rows[5]["run"]


def test_a_run_that_fails_makes_the_exit_code_1(program, tiny_store, tmp_path, monkeypatch):
    from declip_pipeline.training import learner

    step, steps = learner.training_loss, []

    def failing(*arguments):
        steps.append(1)
        # Two steps a run: those of the second seed.
        wrong = 2 < len(steps) <= 4
        return step(*arguments) * (float("nan") if wrong else 1)

    monkeypatch.setattr(learner, "training_loss", failing)
    outcome = program(
        "train", tiny_store.location, "--layers", "layer1", "--decoders", "linear",
        "--seeds", "0,1,2", *QUICK, "-o", tmp_path,
    )  # fmt: skip
    assert outcome.code == 1
    rows = rows_of(outcome.last_line)
    assert [row["state"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["reason"].startswith("the training loss is nan in epoch 1, step 1 (")
    assert "3 of 3 runs done, 1 failed" in outcome.err


def test_training_sets_are_an_axis(program, tiny_store, tmp_path):
    generator = tiny_store.generators[0]
    outcome = program(
        "train", tiny_store.location, "--layers", "layer1,layer2", "--decoders", "linear",
        "--train-on", generator, *QUICK, "-o", tmp_path,
    )  # fmt: skip
    assert [row["train_on"] for row in rows_of(outcome.last_line)] == [generator] * 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--layers", "layer0,layer9"), "unknown layer 'layer9'"),
        (("--layers", "all", "--decoders", "linear,conv-5"), "unknown decoder type 'conv-5'"),
        (("--layers", "layer0", "--seeds", "0,x"), "--seed 'x'; expected a whole number"),
        (("--layers", "layer0", "--lr", "1e-3,0"), "--learning-rate '0'; expected a number of at"),
        (("--layers", "layer0", "--lr", "inf"), "--learning-rate 'inf'; expected a number of at"),
        (("--layers", "layer0", "--seeds", "1,1"), "'1' is given twice in '1,1'; give each once"),
        (("--layers", "layer0", "--seeds", "1,01"), "1 is given twice; give each value of a grid"),
        (("--layers", "layer0", "--seeds", "1,,2"), "has an empty item"),
    ],
)
def test_what_no_run_could_do_is_refused_before_the_first(
    refused, tiny_store, tmp_path, options, line
):
    runs = tmp_path / "runs"
    assert line in refused("train", tiny_store.location, *options, *QUICK, "-o", runs)
    assert not runs.exists()


def test_the_table_shows_means_and_spreads_of_seeds():
    from declip_pipeline.sweeps.grid import CellResult

    def row(seed, state, iou=None, decoder="linear"):
        return CellResult("layer1", decoder, seed, 1e-3, "all", state, best_valid_iou=iou)

    table = grid_table(
        [
            row(0, "finished", 40.0),
            row(1, "finished", 44.0),
            row(2, "waiting"),
            row(0, "failed", decoder="conv-4"),
        ]
    )
    assert [column.header for column in table.columns] == ["layer", "linear", "conv-4"]
    assert list(table.columns[1].cells) == ["42.00 ± 2.83 (2/3)"]
    assert list(table.columns[2].cells) == ["- failed"]
    assert table.caption == "3 of 4 runs done, 1 failed"


def test_decoders_with_learning_rates_of_their_own_share_a_row():
    from declip_pipeline.sweeps.grid import CellResult

    def row(decoder, rate, iou):
        return CellResult("layer1", decoder, 0, rate, "all", "finished", best_valid_iou=iou)

    chosen = [row("linear", 3e-2, 40.0), row("conv-4", 2e-3, 50.0)]
    table = grid_table(chosen)
    assert [column.header for column in table.columns] == ["layer", "linear", "conv-4"]
    assert [list(column.cells) for column in table.columns] == [["layer1"], ["40.00"], ["50.00"]]
    # What a grid spans has rows, of which a decoder may lack some.
    table = grid_table([*chosen, row("linear", 1e-2, 45.0)])
    assert [list(column.cells) for column in table.columns] == [
        *(["0.03", "0.002", "0.01"], ["layer1"] * 3),
        *(["40.00", "-", "45.00"], ["-", "50.00", "-"]),
    ]


def test_lines_of_discriminants_name_no_learning_rate(program, tiny_store, tmp_path):
    """They are computed, and it was said of them as of what is trained."""
    command = ("train", tiny_store.location, "--decoder-type", "lda", "-o", tmp_path)
    alone = program(*command, "--feature-layer", "layer1")
    assert "epoch 1: loss " in alone.err
    grid = program(*command, "--layers", "0-1")
    assert "lda layer0 all seed 0: best validation IoU" in grid.err
    assert "learning rate" not in alone.err + grid.err
