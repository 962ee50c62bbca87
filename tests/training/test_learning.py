"""A training that learns nothing says so: while it runs, at its end, and wherever it is shown."""

import csv
import json

import pytest
import torch
from support.made_evaluation import localized

from declip_pipeline.evaluation.cells import cells_of, estimates
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learning import learning_problem
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


def records(losses, ious):
    return [{"train_loss": loss, "valid_iou": iou} for loss, iou in zip(losses, ious, strict=True)]


FALLING = [0.68, 0.6, 0.5, 0.4, 0.35, 0.29]


def test_a_falling_loss_without_iou_is_a_problem():
    found = learning_problem(records(FALLING, [0.0] * 6), 12.5, Recipe(), 200)
    assert found == (
        "it learned nothing: its best validation IoU, 0.00, is not above that of a constant map, "
        "12.50, while the loss fell from 0.68 to 0.29; try a smaller `batch_size` (an epoch has 4 "
        'steps), another `learning_rate`, a larger `patience` or `initialization="pytorch"`'
    )


@pytest.mark.parametrize(("best", "is_problem"), [(1e-8, True), (0.4, True), (0.6, False)])
def test_a_score_next_to_a_constant_maps_is_one(best, is_problem):
    ious = [0.0, 12.5 + best, *[0.0] * 4]
    found = learning_problem(records(FALLING, ious), 12.5, Recipe(), 9000)
    assert (found is not None and "not above that of a constant map" in found) is is_problem


def test_a_best_first_epoch_is_a_problem_where_the_loss_fell():
    ious = [30.0, 29.0, 28.0, 20.0, 20.0, 10.0]
    recipe = Recipe(initialization="pytorch")
    found = learning_problem(records(FALLING, ious), 12.5, recipe, 9000)
    assert found == (
        "it learned nothing: its validation IoU was best in the first of 6 epochs, 30.00, while "
        "the loss fell from 0.68 to 0.29; try another `learning_rate` or a larger `patience`"
    )
    assert learning_problem(records([0.1] * 6, ious), 12.5, recipe, 9000) is None
    assert learning_problem(records(FALLING[:5], ious[:5]), 12.5, recipe, 9000) is None


def test_a_training_that_learns_all_in_its_first_epoch_has_no_problem():
    ious = [79.4, 79.0, 78.0, 78.0, 77.0, 77.0]
    assert learning_problem(records(FALLING, ious), 17.0, Recipe(), 1000) is None


def test_a_training_that_learns_has_no_problem():
    ious = [0.0, 0.0, 5.0, 20.0, 30.0, 40.0]
    assert learning_problem(records(FALLING, ious), 12.5, Recipe(), 200) is None


def test_a_constant_score_is_that_of_the_better_constant_map(tiny_store, mixed_store, cpu):
    data = TrainingData([tiny_store], device=cpu)
    masks = tiny_store.read_targets(tiny_store.fake_rows("valid")) > 127
    assert data.constant_score(["noisy"], "masks") == pytest.approx(100 * masks.mean())
    # 5 fakes of each of two generators, 6 real images.
    both = TrainingData([mixed_store], device=cpu)
    assert both.constant_score(["lama", "ldm"], "labels") == pytest.approx(100 * 10 / 16)


@pytest.mark.slow
def test_it_is_said_while_it_runs_and_kept(tiny_store, tmp_path):
    said = []
    data = TrainingData([tiny_store], device=torch.device("cpu"), notice=said.append)
    # So low a rate that nothing changes.
    recipe = Recipe("linear", epochs=6, patience=9, batch_size=8, learning_rate=1e-6)
    run = train_run(data, tmp_path, layer="layer1", recipe=recipe)
    (line,) = [line for line in said if "learned nothing" in line]
    assert line.startswith(f"{run.path.name}: after 5 epochs, it learned nothing: its best valid")
    assert "not above that of a constant map" in run.summary()["problem"]
    assert run.problem == run.summary()["problem"]
    assert run.summary()["constant_score"] == data.constant_score(["noisy"], "masks")


def test_means_that_such_a_run_enters_are_marked():
    good, bad = localized("ldm", 0, ldm=[80.0, 60.0]), localized("ldm", 1, ldm=[0.0, 0.0])
    object.__setattr__(bad, "problem", "it learned nothing")
    assert estimates(cells_of([good]), ["iou"])["iou"].mark == ""
    assert estimates(cells_of([good, bad]), ["iou"])["iou"].mark == "!"
    (matrix,) = matrices([good, bad, localized("lama", 0, ldm=[10.0], lama=[5.0])])
    assert matrix.table.marked_columns == ("lama", "ldm!")
    assert matrix.table.marked_rows == ("lama", "ldm!")


@pytest.mark.slow
def test_commands_mark_it(program, tiny_store, tmp_path):
    where = (tiny_store.location, "--layers", "layer1,layer2", "--batch-size", 8, "--epochs", 1)
    options = ("--decoders", "linear", "--lr", 1e-6, "-o", tmp_path)
    outcome = program("ablate", *where, *options)
    assert outcome.code == 0, outcome.err
    meaning = "! of a run that learned nothing: `declip-pipe runs ls` says why"
    assert meaning in outcome.out and "best in domain: layer" in outcome.out
    assert outcome.err.count("; it learned nothing: its best validation IoU") == 2
    table = next(tmp_path.glob("grid_*"))
    with (table / "ablation.csv").open(newline="") as file:
        assert {row["mark"] for row in csv.DictReader(file) if row["mean_iou"] != "nan"} == {"!"}
    with (table / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["problem"].startswith("it learned nothing") for row in rows)
    one = rows[0]["run"]
    evaluated = program("evaluate", one, "--on", tiny_store.location)
    assert " on noisy!, test: " in evaluated.out
    assert f"{one}: it learned nothing: its best" in evaluated.err
    assert "try a smaller --batch-size (an epoch has 1 step)" in evaluated.err
    assert " on noisy!, test" in evaluated.out
    listed = json.loads(program("runs", "ls", tmp_path, "--json").out)
    assert all(run["problem"].startswith("it learned nothing") for run in listed)
    assert "!" in program("runs", "ls", tmp_path).out
    alone = program("train", tiny_store.location, "--layers", "layer1", *where[3:], *options)
    assert "remark: it learned nothing: its best validation IoU" in alone.err
