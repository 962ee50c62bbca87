"""A grid on Dask workers trains the same runs as one process, even if workers die meanwhile."""

import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from support.worker_processes import pid, pretend_version, separate_cluster

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.jobs import tasks, worker
from declip_pipeline.jobs.cluster import open_client
from declip_pipeline.sweeps import grid as grids
from declip_pipeline.sweeps import grid_trainer as trainers
from declip_pipeline.sweeps.grid import Grid, one_after_another
from declip_pipeline.sweeps.grid_job import GridJob, grid_cells
from declip_pipeline.sweeps.grid_trainer import GridTrainer
from declip_pipeline.sweeps.trainer import WorkerTraining
from declip_pipeline.training import side_by_side as training
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run

pytestmark = pytest.mark.cluster

# Two layers side by side for each seed, and a decoder that is trained by itself.
CELLS = [
    *grid_cells(["layer1", "layer2"], ["linear"], [0, 1], [1e-3], [None]),
    *grid_cells(["layer1"], ["conv-4"], [0], [1e-3], [None]),
]
EPOCHS = 6


@pytest.fixture(scope="module")
def client():
    with open_client(dask="local:2") as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(autouse=True)
def followed_closely(monkeypatch):
    monkeypatch.setattr(tasks, "FOLLOW_SECONDS", 0.1)
    monkeypatch.setattr(grids, "BUSY_SECONDS", 0.1)


def job_of(store, folder, epochs=EPOCHS, **changes):
    recipe = Recipe(
        "linear", widths=(8, 8, 4, 4), initialization="pytorch", epochs=epochs, batch_size=4
    )
    return GridJob((store.location,), str(folder), recipe, device="cpu", **changes)


def run_by_workers(client, job, cells=CELLS, on_change=lambda rows: None, notice=lambda line: None):
    workers = WorkerTraining(client, job, cells, notice)
    groups = workers.split(GridTrainer(job).groups(cells))
    return Grid(cells, Path(job.runs, "grid"), workers, groups=groups, on_change=on_change).run()


@pytest.fixture(scope="module")
def undisturbed(tiny_store, tmp_path_factory):
    """The rows of a grid in this process."""
    trainer = GridTrainer(job_of(tiny_store, tmp_path_factory.mktemp("one")))
    return Grid(
        CELLS,
        Path(trainer.job.runs, "grid"),
        one_after_another(trainer.train),
        groups=trainer.groups(CELLS),
    ).run()


def content(rows):
    """All that training gave: rows and folders without how long it took."""
    found = []
    for row in rows:
        run = Run(Path(row.run))
        figures = [[e["epoch"], e["train_loss"], e["valid_iou"]] for e in run.epochs()]
        config, weights = (
            (run.path / name).read_bytes()
            for name in ("config.yaml", "checkpoint_best.safetensors")
        )
        # The history has the seconds of each epoch.
        summary = run.summary() | {"seconds": 0, "files": {}}
        found.append((run.path.name, row.state, figures, summary, config, weights))
    return found


def _slow_down(seconds, log=None):
    """In a worker: every epoch takes so long, and may be logged."""
    epoch = getattr(training, "undelayed", training._one_epoch)
    training.undelayed = epoch

    def slow(*arguments, **keywords):
        began = time.time()
        time.sleep(seconds)
        epoch(*arguments, **keywords)
        if log is not None:
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()} {began} {time.time()}\n")

    training._one_epoch = slow


def test_two_workers_train_what_one_process_does(
    client, tiny_store, tmp_path, monkeypatch, undisturbed
):
    # A relative place must be the same for workers, whose current folder is another.
    monkeypatch.chdir(tmp_path)
    log, said, shown = tmp_path / "log", [], []
    client.run(_slow_down, 0.1, str(log))
    rows = run_by_workers(
        client,
        job_of(tiny_store, "runs"),
        on_change=lambda rows: shown.append(list(rows)),
        notice=said.append,
    )
    assert content(rows) == content(undisturbed)
    assert all(not Path(row.run).is_absolute() for row in rows)
    # Which of the two layers a worker came to read, and whether together, is chance.
    assert said and all(line.startswith("the worker on ") for line in said)
    # A training may also say that it learns nothing.
    assert all(": 8 images, " in line or "learned nothing" in line for line in said)
    assert any(": 8 images, " in line for line in said)
    # What is shown while it runs are the epochs of the runs' own metrics.
    running = [row for rows in shown for row in rows if row.state == "running" and row.epochs]
    assert {row.layer for row in running} == {"layer1", "layer2"}
    for row in running:
        (end,) = (r for r in rows if (r.layer, r.seed, r.decoder_type) == _what(row))
        epochs = Run(Path(end.run)).epochs()[: row.epochs]
        assert row.best_valid_iou == max(epoch["valid_iou"] for epoch in epochs)
    spans = [line.split() for line in log.read_text().splitlines()]
    processes = {process for process, _, _ in spans}
    for process in processes:
        own = sorted((float(a), float(b)) for other, a, b in spans if other == process)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(own))
    assert len(processes) == 2
    # All is found finished, and what workers kept is let go.
    again = run_by_workers(client, job_of(tiny_store, "runs"))
    assert again == rows
    assert log.read_text().count("\n") == len(spans)


def _what(row):
    return row.layer, row.seed, row.decoder_type


def _checkpointed(records: Path) -> str:
    """The epochs that a run need not train again."""
    state = Run(records.parent).load_state()
    lines = records.read_text().splitlines(keepends=True)
    return "".join(lines[: 0 if state is None else state["epoch"]])


def test_a_killed_workers_runs_go_on_from_their_checkpoints(
    client, tiny_store, tmp_path, undisturbed
):
    client.run(_slow_down, 0.2)
    pids = client.run(pid)
    kept, killed = {}, []

    def kill_one(rows):
        # Once a run that is under way has a checkpoint.
        if not killed and any(row.state == "running" and row.epochs for row in rows):
            kept.update({path: _checkpointed(path) for path in tmp_path.glob("*/metrics.jsonl")})
            if not any(kept.values()):
                return
            at_work = [worker for worker, tasks in client.processing().items() if tasks]
            killed.append(pids[at_work[0]])
            os.kill(*killed, signal.SIGKILL)

    rows = run_by_workers(client, job_of(tiny_store, tmp_path), on_change=kill_one)
    assert any(kept.values())
    for path, epochs in kept.items():
        assert path.read_text().startswith(epochs), "these epochs were not trained again"
    assert content(rows) == content(undisturbed)
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(pid).values()) & set(pids.values()) == set(pids.values()) - set(killed)


def _spoil(error):
    """In a worker: decoders of layer2 end in a bad loss, or in another error."""
    from declip_pipeline.sweeps import grid_trainer as trainers
    from declip_pipeline.training import learner

    def train_runs(data, runs, on_epoch):
        if error and runs[0].recipe.decoder_type == "conv-4":
            raise ValueError("no such\nthing")
        return undisturbed(data, runs, on_epoch)

    def loss(*arguments):
        return step(*arguments) * (float("nan") if error else 1)

    undisturbed = getattr(trainers, "undisturbed", trainers.train_runs)
    step = getattr(learner, "undisturbed", learner.training_loss)
    trainers.undisturbed, learner.undisturbed = undisturbed, step
    trainers.train_runs, learner.training_loss = train_runs, loss


def test_runs_that_fail_are_rows_with_their_reasons(client, tiny_store, tmp_path):
    client.run(_slow_down, 0)
    client.run(_spoil, True)
    cells = [CELLS[0], CELLS[4]]
    try:
        rows = run_by_workers(client, job_of(tiny_store, tmp_path), cells)
    finally:
        client.run(_spoil, False)
    assert [row.state for row in rows] == ["failed", "failed"]
    assert rows[0].reason.startswith("the training loss is nan in epoch 1, step 1 (")
    assert rows[1].reason == "ValueError: no such thing"
    rows = run_by_workers(client, job_of(tiny_store, tmp_path), cells)
    assert [row.state for row in rows] == ["finished", "finished"]


def test_what_nobody_waits_for_stops_after_its_epoch(client, tiny_store, tmp_path, undisturbed):
    client.run(_slow_down, 0.2)

    def interrupt(rows):
        if any(row.state == "running" and row.epochs for row in rows):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_by_workers(client, job_of(tiny_store, tmp_path), on_change=interrupt)
    deadline = time.monotonic() + 60
    while any(client.processing().values()) or any(client.run(_is_training).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left = [Run(path.parent) for path in tmp_path.glob("*/config.yaml")]
    assert left and not all(run.is_finished for run in left)
    rows = run_by_workers(client, job_of(tiny_store, tmp_path))
    assert content(rows) == content(undisturbed)


def _is_training():
    return worker._slots[1]._value == 0


def test_after_the_scheduler_is_lost_the_same_grid_goes_on(tiny_store, tmp_path, undisturbed):
    job = job_of(tiny_store, tmp_path / "runs")
    with separate_cluster(tmp_path) as cluster, open_client(scheduler=cluster.address) as own:
        own.run(_slow_down, 0.1)

        def kill_all(rows):
            if any(row.state == "running" and row.epochs for row in rows):
                cluster.kill()

        with pytest.raises(DeclipError, match="the Dask scheduler is gone; start it and run"):
            run_by_workers(own, job, on_change=kill_all)
    trainer = GridTrainer(job)
    rows = Grid(CELLS, tmp_path / "grid", one_after_another(trainer.train)).run()
    assert content(rows) == content(undisturbed)


def test_a_worker_of_another_version_is_refused_before_anything_is_written(
    client, tiny_store, tmp_path
):
    client.run(pretend_version, "0.0.1")
    try:
        with pytest.raises(InputError, match=rf"has declip-pipe 0\.0\.1, this is {__version__}"):
            run_by_workers(client, job_of(tiny_store, tmp_path / "runs"))
    finally:
        client.run(pretend_version, __version__)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            "store",
            "cannot use the store /proc/self/cwd/store: .*; keep stores on a disk that all workers "
            "mount at the same path, or in a bucket",
        ),
        ("runs", "sees another `runs` /proc/self/cwd/runs; expected a disk that all workers"),
    ],
)
def test_a_worker_that_does_not_see_stores_or_runs_is_refused(
    client, tiny_store, tmp_path, monkeypatch, what, line
):
    # This path leads every process to its own current folder.
    monkeypatch.chdir(tmp_path)
    client.run(os.chdir, "/")
    job = job_of(tiny_store, "/proc/self/cwd/runs" if what == "runs" else tmp_path / "runs")
    if what == "store":
        (tmp_path / "store").symlink_to(tiny_store.location)
        job = GridJob(("/proc/self/cwd/store",), job.runs, job.recipe, device="cpu")
    with pytest.raises(InputError, match=line):
        WorkerTraining(client, job, CELLS)
    assert not any(file.is_file() for file in (tmp_path / "runs").rglob("*"))


def test_a_worker_that_sees_another_store_there_is_refused(client, tiny_store, store_in, tmp_path):
    place = tmp_path / "store"
    place.symlink_to(tiny_store.location)
    job = GridJob((str(place),), str(tmp_path), job_of(tiny_store, "").recipe, device="cpu")
    workers = WorkerTraining(client, job, CELLS)
    place.unlink()
    place.symlink_to(store_in("float32").location)
    with pytest.raises(InputError, match=rf"sees another store at {place}, .{{12}} instead of "):
        workers._workers._check(None)


def _pretend_precision(precision):
    undisturbed = getattr(trainers, "real_precision", trainers.choose_precision)
    trainers.real_precision = undisturbed
    trainers.choose_precision = (lambda *_: precision) if precision else undisturbed


def test_workers_that_would_compute_otherwise_are_refused_or_left_out(client, tiny_store, tmp_path):
    said = []
    workers = WorkerTraining(client, job_of(tiny_store, tmp_path), CELLS, said.append)
    other = next(iter(client.scheduler_info()["workers"]))
    client.run(_pretend_precision, "bfloat16", workers=[other])
    try:
        with pytest.raises(InputError, match="in different precisions; name one with `precision`"):
            WorkerTraining(client, job_of(tiny_store, tmp_path), CELLS)
        # As one that comes when the others are at work.
        workers._workers._fit.pop(other)
        assert not workers._workers.is_fit(other, said.append)
        assert not workers._workers.is_fit(other, said.append)
    finally:
        client.run(_pretend_precision, None)
    assert said == [f"the worker {other} is left out: it would compute in another precision"]


def test_groups_are_halved_until_each_worker_has_one(client, tiny_store, tmp_path):
    workers = WorkerTraining(client, job_of(tiny_store, tmp_path), CELLS)
    assert workers.split([[0, 1, 2, 3, 4]]) == [[0, 1], [2, 3, 4]]
    assert workers.split([[0, 1], [2], [3]]) == [[0, 1], [2], [3]]
    assert workers.split([[0]]) == [[0]]


def test_what_workers_keep_is_let_go(client, tiny_store, tmp_path):
    workers = WorkerTraining(client, job_of(tiny_store, tmp_path), CELLS)
    assert list(client.run(_kept).values()) == [["trainer"]] * 2
    workers.release()
    assert list(client.run(_kept).values()) == [[], []]


def _kept():
    return list(worker._kept)
