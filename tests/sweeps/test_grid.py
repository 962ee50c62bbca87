"""A grid trains every combination once, whatever fails or interrupts it, and keeps a table."""

import csv
from multiprocessing import get_context

import pyarrow.parquet
import pytest
import torch

from declip_pipeline.errors import InputError, RunBusyError, TrainingError
from declip_pipeline.sweeps import grid as grids
from declip_pipeline.sweeps.grid import Grid, grid_name, one_after_another
from declip_pipeline.sweeps.grid_job import GridJob, grid_cells
from declip_pipeline.sweeps.grid_trainer import GridTrainer
from declip_pipeline.training import learner
from declip_pipeline.training import side_by_side as training
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run

CELLS = grid_cells(["layer1", "layer2"], ["linear"], [0, 1], [1e-3, 3e-3], [None])
CPU = torch.device("cpu")


def trainer_of(store, folder, notice=lambda line: None, **options):
    recipe = Recipe("linear", epochs=2, batch_size=4)
    job = GridJob((store.location,), str(folder), recipe, device="cpu", **options)
    return GridTrainer(job, notice)


def make_grid(store, folder, cells=CELLS, notice=lambda line: None, side_by_side=False):
    trainer = trainer_of(store, folder, notice)
    groups = trainer.groups(cells) if side_by_side else None
    return Grid(
        cells, folder / grid_name({}, cells), one_after_another(trainer.train), groups=groups
    )


def train_alone(store, folder, cell, epochs=2):
    recipe = Recipe(
        cell.decoder_type,
        seed=cell.seed,
        learning_rate=cell.learning_rate,
        epochs=epochs,
        batch_size=4,
    )
    data = TrainingData([store], device=CPU)
    return train_run(data, folder, layer=cell.layer, recipe=recipe)


def table(grid):
    with (grid.folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def figures(results):
    """What training gave, without how long it took and where."""
    return [(r.layer, r.seed, r.learning_rate, r.state, r.best_valid_iou) for r in results]


@pytest.mark.slow
def test_every_combination_is_a_cell_and_a_layer_is_read_once(tiny_store, tmp_path):
    assert len(CELLS) == 8
    assert [cell.layer for cell in CELLS] == ["layer1"] * 4 + ["layer2"] * 4
    said = []
    grid = make_grid(tiny_store, tmp_path, notice=said.append)
    results = grid.run()
    assert [line.split(":")[0] for line in said] == ["layer1", "layer2"]
    assert [result.state for result in results] == ["finished"] * 8
    for cell, result, row in zip(CELLS, results, table(grid), strict=True):
        summary = Run(tmp_path / result.run.split("/")[-1]).summary()
        assert result.best_valid_iou == summary["best_valid_iou"]
        assert row["layer"] == cell.layer and row["state"] == "finished"
        assert float(row["best_valid_iou"]) == summary["best_valid_iou"]
    columns = pyarrow.parquet.read_table(grid.folder / "results.parquet")
    assert columns.column("learning_rate").to_pylist() == [c.learning_rate for c in CELLS]
    assert columns.column("seed").to_pylist() == [cell.seed for cell in CELLS]


def test_a_run_of_a_grid_is_the_run_alone(tiny_store, tmp_path):
    results = make_grid(tiny_store, tmp_path / "grid").run()
    alone = train_alone(tiny_store, tmp_path / "alone", CELLS[3])
    assert alone.path.name == results[3].run.split("/")[-1]
    same = Run(tmp_path / "grid" / alone.path.name)
    mine, theirs = (folder.best_decoder()[0].state_dict() for folder in (alone, same))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_a_killed_grid_left_beside_its_table_is_removed(tiny_store, tmp_path):
    grid = make_grid(tiny_store, tmp_path, CELLS[:1])
    grid.folder.mkdir()
    (grid.folder / ".0123456789ab.partial.parquet").write_bytes(b"half")
    grid.run()
    assert sorted(file.name for file in grid.folder.iterdir()) == ["results.csv", "results.parquet"]


@pytest.mark.slow
def test_one_that_fails_is_a_row_with_its_reason(tiny_store, tmp_path, monkeypatch):
    step = learner.training_loss
    real_loss = iter([True] * 4)

    def loss(*arguments):
        if next(real_loss, False):
            return step(*arguments) * float("nan")
        return step(*arguments)

    monkeypatch.setattr(learner, "training_loss", loss)
    grid = make_grid(tiny_store, tmp_path)
    results = grid.run()
    failed = [result for result in results if result.state == "failed"]
    assert len(failed) == 2 and failed == results[:2]
    assert "the training loss is nan in epoch 1" in failed[0].reason
    assert [row["state"] for row in table(grid)] == ["failed"] * 2 + ["finished"] * 6
    # Once the cause is gone, the same grid trains what is missing and nothing else.
    trained = []
    monkeypatch.setattr(learner, "training_loss", lambda *some: trained.append(1) or step(*some))
    assert all(result.state == "finished" for result in make_grid(tiny_store, tmp_path).run())
    assert len(trained) == 2 * 2 * 2, "two runs, two epochs, two steps"


def test_errors_of_any_kind_leave_the_others_alone(tmp_path):
    def train(cells, on_epoch):
        if cells[0].layer == "layer1":
            raise ValueError("no layer1\nat all")
        return [TrainingError("x")]

    results = Grid(CELLS, tmp_path, one_after_another(train)).run()
    assert {result.reason for result in results} == {"ValueError: no layer1 at all", "x"}


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_undisturbed(tiny_store, tmp_path, monkeypatch):
    undisturbed = make_grid(tiny_store, tmp_path / "one").run()
    epoch = training._one_epoch
    done = []

    def dying(*arguments, **keywords):
        if len(done) in (5, 12):
            done.append("died")
            raise KeyboardInterrupt
        done.append("epoch")
        return epoch(*arguments, **keywords)

    monkeypatch.setattr(training, "_one_epoch", dying)
    for states in (["finished"] * 2 + ["running"], ["finished"] * 5 + ["running"]):
        grid = make_grid(tiny_store, tmp_path / "two")
        with pytest.raises(KeyboardInterrupt):
            grid.run()
        found = [row["state"] for row in table(grid)]
        assert found == states + ["waiting"] * (8 - len(states))
    results = make_grid(tiny_store, tmp_path / "two").run()
    assert figures(results) == figures(undisturbed)
    assert done.count("epoch") == 16, "no epoch was trained twice"


def _train_in_process(store, folder, results):
    from declip_pipeline.store.reader import Store

    torch.set_num_threads(1)
    results.put(figures(make_grid(Store(store), folder).run()))


@pytest.mark.slow
def test_two_processes_share_a_grid(tiny_store, tmp_path):
    spawn = get_context("spawn")
    results = spawn.Queue()
    processes = [
        spawn.Process(target=_train_in_process, args=(tiny_store.location, tmp_path, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    first, second = (results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join(30)
    assert first == second
    assert len(first) == 8 and {state for *_, state, _ in first} == {"finished"}
    assert len([run for run in tmp_path.glob("linear_*") if Run(run).is_finished]) == 8


def test_what_another_process_is_at_comes_last(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "BUSY_SECONDS", 0.01)
    busy = {"layer1": 3}
    order = []

    def train(cells, on_epoch):
        (cell,) = cells
        order.append((cell.layer, cell.seed))
        if busy.get(cell.layer):
            busy[cell.layer] -= 1
            return [RunBusyError("another process")]
        return [train_alone(tiny_store, tmp_path, cell, epochs=1)]

    cells = grid_cells(["layer1", "layer2"], ["linear"], [0], [1e-3], [None])
    results = Grid(cells, tmp_path / "table", one_after_another(train)).run()
    assert order == [("layer1", 0), ("layer2", 0), ("layer1", 0), ("layer1", 0), ("layer1", 0)]
    assert [result.state for result in results] == ["finished"] * 2


def test_a_run_is_trained_by_one_process_at_a_time(tiny_run, tmp_path):
    run = Run(tmp_path)
    config = Run(tiny_run).config()
    run.begin(config, config["run_sha256"])
    with (
        run.exclusively(),
        pytest.raises(
            RunBusyError, match="is being trained by another process; wait for it, or name another"
        ),
        Run(tmp_path).exclusively(),
    ):
        pass
    with run.exclusively():
        pass


def test_a_value_given_twice_is_refused():
    with pytest.raises(InputError, match="'layer1' is given twice; give each value of a grid once"):
        grid_cells(["layer1", "layer1"], ["linear"], [0], [1e-3], [None])
