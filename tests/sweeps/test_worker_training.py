"""A grid on Dask workers: the same runs as in one process, whoever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from declip_pipeline import __version__, dask_workers
from declip_pipeline.dask_cluster import open_client
from declip_pipeline.dask_workers import DaskWorkers
from declip_pipeline.errors import DeclipError, InputError, TrainingError
from declip_pipeline.sweeps import grid as grids
from declip_pipeline.sweeps import group_dispatch
from declip_pipeline.sweeps import trainer as trainers
from declip_pipeline.sweeps.grid import Grid, one_after_another
from declip_pipeline.sweeps.grid_job import GridJob, grid_cells
from declip_pipeline.sweeps.group_dispatch import GroupDispatch
from declip_pipeline.sweeps.trainer import GridTrainer
from declip_pipeline.sweeps.worker_training import WorkerTraining
from declip_pipeline.training import train as training
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run_folder import RunFolder

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
    monkeypatch.setattr(group_dispatch, "FOLLOW_SECONDS", 0.1)
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
        run = RunFolder(Path(row.run))
        figures = [[e["epoch"], e["train_loss"], e["valid_iou"]] for e in run.epochs()]
        config, weights = (
            (run.path / name).read_bytes()
            for name in ("config.yaml", "checkpoint_best.safetensors")
        )
        summary = run.summary() | {"seconds": 0}
        found.append((run.path.name, row.state, figures, summary, config, weights))
    return found


def _pid():
    return os.getpid()


def _slow_down(seconds, log=None):
    """In a worker: every epoch takes so long, and may be logged."""
    epoch = getattr(training, "undelayed", training._one_epoch)
    training.undelayed = epoch

    def slow(*arguments):
        began = time.time()
        time.sleep(seconds)
        epoch(*arguments)
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
    assert all(": 8 pictures, " in line for line in said)
    # What is shown while it runs are the epochs of the runs' own metrics.
    running = [row for rows in shown for row in rows if row.state == "running" and row.epochs]
    assert {row.layer for row in running} == {"layer1", "layer2"}
    for row in running:
        (end,) = (r for r in rows if (r.layer, r.seed, r.decoder_type) == _what(row))
        epochs = RunFolder(Path(end.run)).epochs()[: row.epochs]
        assert row.best_valid_iou == max(epoch["valid_iou"] for epoch in epochs)
    spans = [line.split() for line in log.read_text().splitlines()]
    for pid in {pid for pid, _, _ in spans}:
        own = sorted((float(a), float(b)) for worker, a, b in spans if worker == pid)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(own))
    assert len({pid for pid, _, _ in spans}) == 2
    # All is found finished, and what workers kept is let go.
    again = run_by_workers(client, job_of(tiny_store, "runs"))
    assert again == rows
    assert log.read_text().count("\n") == len(spans)


def _what(row):
    return row.layer, row.seed, row.decoder_type


def _checkpointed(records: Path) -> str:
    """The epochs that a run need not train again: its records are written before its state."""
    state = RunFolder(records.parent).load_state()
    lines = records.read_text().splitlines(keepends=True)
    return "".join(lines[: 0 if state is None else state["epoch"]])


def test_a_killed_workers_runs_go_on_from_their_checkpoints(
    client, tiny_store, tmp_path, undisturbed
):
    client.run(_slow_down, 0.2)
    pids = client.run(_pid)
    kept, killed = {}, []

    def kill_one(rows):
        # Once a run that is under way has epochs behind it.
        if not kept and any(row.state == "running" and row.epochs for row in rows):
            kept.update({path: _checkpointed(path) for path in tmp_path.glob("*/metrics.jsonl")})
            at_work = [worker for worker, tasks in client.processing().items() if tasks]
            killed.append(pids[at_work[0]])
            os.kill(*killed, signal.SIGKILL)

    rows = run_by_workers(client, job_of(tiny_store, tmp_path), on_change=kill_one)
    assert any(kept.values())
    for path, epochs in kept.items():
        assert path.read_text().startswith(epochs), "these epochs were not trained again"
    assert content(rows) == content(undisturbed)
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(_pid).values()) & set(pids.values()) == set(pids.values()) - set(killed)


def test_a_group_that_kills_its_workers_is_given_up(client, tmp_path, monkeypatch):
    monkeypatch.setattr(group_dispatch, "DEATHS", 2)
    began = []

    def submit(worker, numbers):
        deadly = numbers == [0, 1]
        return client.submit(
            _die if deadly else _succeed, len(numbers), workers=[worker], pure=False
        )

    dispatch = GroupDispatch(
        DaskWorkers(client),
        [RunFolder(tmp_path / str(number)) for number in range(4)],
        submit=submit,
        is_fit=lambda worker: True,
        begun=began.append,
        learned=lambda number, epochs: None,
        notice=lambda line: None,
    )
    ended = {tuple(group): outcomes for group, outcomes in dispatch.run([[0, 1], [2], [3]])}
    assert ended[2,][0].path == tmp_path / "2" and ended[3,][0].path == tmp_path / "3"
    first, second = ended[0, 1]
    assert first is second and isinstance(first, TrainingError)
    assert str(first) == (
        "workers died at these 2 runs 2 times, for want of memory or because their machines were "
        "taken away; give them more memory or take a smaller --micro-batch-size, and run the same "
        "command again, it goes on where it stopped"
    )
    assert began == [[0, 1], [2], [3]]
    client.wait_for_workers(2, timeout=60)


def _die(_):
    os._exit(1)


def _succeed(count):
    from declip_pipeline.sweeps.worker_task import TrainedGroup

    return TrainedGroup("here", [], [None] * count)


def _spoil(error):
    """In a worker: decoders of layer2 end in a bad loss, or in another error."""
    from declip_pipeline.sweeps import trainer as trainers
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
    left = [RunFolder(path.parent) for path in tmp_path.glob("*/config.yaml")]
    assert left and not all(run.is_finished for run in left)
    rows = run_by_workers(client, job_of(tiny_store, tmp_path))
    assert content(rows) == content(undisturbed)


def _is_training():
    from declip_pipeline.sweeps import worker_task

    return worker_task._training.locked()


def test_after_the_scheduler_is_lost_the_same_grid_goes_on(tiny_store, tmp_path, undisturbed):
    program = (
        "from distributed import LocalCluster; import dask, sys\n"
        "if __name__ == '__main__':\n"
        # Dask's own workers compute with one thread: last bits would differ.
        "    dask.config.set({'distributed.nanny.pre-spawn-environ': {}})\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None,\n"
        "                      silence_logs=60) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True); sys.stdin.read()\n"
    )
    script = tmp_path / "cluster.py"
    script.write_text(program)
    cluster = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    job = job_of(tiny_store, tmp_path / "runs")
    try:
        with open_client(scheduler=cluster.stdout.readline().strip()) as own:
            own.run(_slow_down, 0.1)

            def kill_all(rows):
                if any(row.state == "running" and row.epochs for row in rows):
                    os.killpg(cluster.pid, signal.SIGKILL)

            with pytest.raises(DeclipError, match="the Dask scheduler is gone; start it and run"):
                run_by_workers(own, job, on_change=kill_all)
    finally:
        cluster.kill()
        cluster.wait()
        cluster.stdin.close()
        cluster.stdout.close()
    trainer = GridTrainer(job)
    rows = Grid(CELLS, tmp_path / "grid", one_after_another(trainer.train)).run()
    assert content(rows) == content(undisturbed)


def _pretend_version(version):
    dask_workers.__version__ = version


def test_a_worker_of_another_version_is_refused_before_anything_is_written(
    client, tiny_store, tmp_path
):
    client.run(_pretend_version, "0.0.1")
    try:
        with pytest.raises(InputError, match=rf"has declip-pipe 0\.0\.1, this is {__version__}"):
            run_by_workers(client, job_of(tiny_store, tmp_path / "runs"))
    finally:
        client.run(_pretend_version, __version__)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            "store",
            "cannot use the store /proc/self/cwd/store: .*; keep stores on a disk that all workers "
            "mount at the same path, or in a bucket",
        ),
        ("runs", "sees another -o /proc/self/cwd/runs; expected a disk that all workers mount at"),
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
        workers._plans(None)


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
        with pytest.raises(InputError, match="in different precisions; name one with --precision"):
            WorkerTraining(client, job_of(tiny_store, tmp_path), CELLS)
        # As one that comes when the others are at work.
        workers._fit.pop(other)
        assert not workers._is_fit(other)
        assert not workers._is_fit(other)
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
    assert set(client.run(_kept).values()) == {1}
    workers.release()
    assert set(client.run(_kept).values()) == {0}


def _kept():
    from declip_pipeline.sweeps import worker_task

    return worker_task._open_trainer.cache_info().currsize


def test_of_workers_some_of_which_declare_a_gpu_those_are_given_runs(client, tiny_store, tmp_path):
    client.run(_slow_down, 0)
    with_gpu = next(iter(client.scheduler_info()["workers"]))
    client.run(_declare_gpu, workers=[with_gpu])
    assert DaskWorkers(client).present() == [with_gpu]
    given = []
    submit = client.submit

    def watched(*arguments, workers, resources, **options):
        given.append((workers, resources))
        return submit(*arguments, workers=workers, resources=resources, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "submit", watched)
        rows = run_by_workers(client, job_of(tiny_store, tmp_path, epochs=1))
    assert {row.state for row in rows} == {"finished"}
    assert given and all(each == ([with_gpu], {"GPU": 1}) for each in given)


async def _declare_gpu(dask_worker):
    await dask_worker.set_resources(GPU=1)
