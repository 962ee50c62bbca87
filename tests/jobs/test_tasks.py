"""Tasks are handed out to workers, checked, retried, given up and cancelled."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from support.worker_processes import declare_gpu, pid, pretend_version, separate_cluster

from declip_pipeline import __version__
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.jobs import tasks, worker
from declip_pipeline.jobs.cluster import open_client
from declip_pipeline.jobs.tasks import run_tasks
from declip_pipeline.jobs.workers import Workers

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def client():
    with open_client(dask="local:2") as client:
        client.wait_for_workers(2, timeout=60)
        yield client
        client.wait_for_workers(2, timeout=60)


@pytest.fixture
def workers(client):
    client.wait_for_workers(2, timeout=60)
    return Workers(client)


def run(workers, function, arguments, at_once=1, **options):
    options = {"notice": lambda line: None, "smaller": "`batch_size`"} | options
    return run_tasks(
        workers,
        function,
        arguments,
        at_once=at_once,
        title=lambda number: f"task {number}",
        **options,
    )


def span(folder: Path, seconds: float) -> tuple[int, float, float]:
    began = time.time()
    time.sleep(seconds)
    return os.getpid(), began, time.time()


def fail(number: int) -> None:
    worker.notice(f"about to fail {number}")
    raise InputError(f"number {number} is bad") if number else ValueError("zero")


def notice(line: str) -> str:
    worker.notice(line)
    return line.upper()


def die() -> None:
    os._exit(1)


def die_once(folder: Path) -> int:
    """Leave a file, and end the process of the first worker that does."""
    (folder / str(os.getpid())).touch()
    if len(list(folder.iterdir())) == 1:
        os._exit(1)
    return os.getpid()


def keep_pid(key: str, seconds: float) -> str:
    time.sleep(seconds)
    return worker.keep("pid", key, partial(str, os.getpid()))


def kept() -> dict[str, object]:
    return {kind: key for kind, (key, _) in worker._kept.items()}


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_worker_runs_as_many_tasks_at_once_as_it_is_given(workers, tmp_path, at_once):
    ended = dict(run(workers, span, [(tmp_path, 0.15)] * 8, at_once))
    assert sorted(ended) == list(range(8))
    spans = list(ended.values())
    assert len({process for process, _, _ in spans}) == 2
    for process, began, _ in spans:
        same = [(a, b) for other, a, b in spans if other == process]
        assert sum(a <= began < b for a, b in same) <= at_once


def test_results_come_with_their_numbers_and_notices(workers):
    said, begun = [], []
    ended = dict(
        run(workers, notice, [("a",), ("b",), ("c",)], notice=said.append, begun=begun.append)
    )
    assert ended == {0: "A", 1: "B", 2: "C"}
    assert begun == [0, 1, 2]
    assert sorted(line.rsplit(": ")[-1] for line in said) == ["a", "b", "c"]
    assert all(line.startswith("the worker on ") for line in said)


def test_an_exception_is_the_outcome_of_its_task(workers):
    ended = dict(run(workers, fail, [(0,), (1,)]))
    assert isinstance(ended[0], ValueError) and str(ended[0]) == "zero"
    assert isinstance(ended[1], InputError)
    assert str(ended[1]).startswith("the worker on ")
    assert str(ended[1]).endswith(": number 1 is bad")


def test_a_task_of_a_dead_worker_is_given_to_another(workers, client, tmp_path):
    ((number, process),) = run(workers, die_once, [(tmp_path,)])
    assert number == 0
    assert sorted(int(path.name) for path in tmp_path.iterdir()) != [process]
    client.wait_for_workers(2, timeout=60)


def test_a_task_that_kills_its_workers_is_given_up(workers, monkeypatch):
    monkeypatch.setattr(tasks, "DEATHS", 2)
    ((_, error),) = run(workers, die, [()])
    assert type(error) is DeclipError
    assert str(error) == (
        "workers died at task 0 2 times, out of memory or because their machines were taken away; "
        "give them more memory or choose a smaller `batch_size`, and run the same command again, "
        "it goes on where it stopped"
    )


def test_a_task_that_makes_progress_is_not_given_up(workers, client, monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "DEATHS", 1)
    ((_, process),) = run(workers, die_once, [(tmp_path,)], progressed=lambda number: False)
    assert isinstance(process, DeclipError)
    client.wait_for_workers(2, timeout=60)
    monkeypatch.setattr(tasks, "DEATHS", 2)
    (tmp_path / "again").mkdir()
    ended = run(workers, die_once, [(tmp_path / "again",)], progressed=lambda number: True)
    assert isinstance(dict(ended)[0], int)


def test_closing_cancels_what_runs_and_what_waits(workers, client, tmp_path):
    with_progress = run(workers, leave_file, [(tmp_path, number) for number in range(8)], 2)
    next(with_progress)
    with_progress.close()
    deadline = time.monotonic() + 30
    while any(client.processing().values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(tmp_path.iterdir())) < 8


def leave_file(folder: Path, number: int) -> None:
    (folder / str(number)).touch()
    time.sleep(0.3)
    worker.require_wanted()


def test_a_lost_scheduler_is_an_error_in_one_line(tmp_path):
    with separate_cluster(tmp_path) as cluster, open_client(scheduler=cluster.address) as client:
        ended = run(Workers(client), span, [(tmp_path, 0.1)] * 10)
        next(ended)
        cluster.kill()
        with pytest.raises(DeclipError, match="the Dask scheduler is gone; start it and run"):
            list(ended)


def test_without_a_worker_it_says_so_and_waits():
    async def stop_all(dask_scheduler):
        await dask_scheduler.retire_workers(
            names=[worker.name for worker in dask_scheduler.workers.values()], close_workers=True
        )

    def give_up(line):
        assert line == "no worker is left; waiting for one to come"
        raise TimeoutError("still nobody")

    with open_client(dask="local:1") as own:
        own.run_on_scheduler(stop_all)
        with pytest.raises(TimeoutError, match="still nobody"):
            next(run(Workers(own), abs, [(-1,)], notice=give_up))


def test_a_worker_of_another_version_is_refused(workers, client):
    client.run(pretend_version, "0.0.1")
    try:
        with pytest.raises(InputError, match=rf"has declip-pipe 0\.0\.1, this is {__version__}"):
            workers.ask(pid)
        with pytest.raises(InputError, match="install the same version there"):
            workers.device_kind("cpu")
        ((_, error),) = run(workers, pid, [()])
        assert isinstance(error, InputError) and "has declip-pipe 0.0.1" in str(error)
    finally:
        client.run(pretend_version, __version__)
    assert len(set(workers.ask(pid).values())) == 2
    assert workers.device_kind("auto") == "cpu"


def test_a_worker_that_cannot_run_a_question_is_refused(workers):
    with pytest.raises(InputError, match="cannot run this: TypeError.*install declip-pipe"):
        workers.ask(pid, "an argument too many")


def test_workers_that_differ_are_refused(workers):
    with pytest.raises(InputError, match="name one"):
        workers.admit(lambda addresses: workers.ask(pid), remedy="they differ; name one")


def test_a_later_worker_is_checked_and_left_out_once(workers, client):
    first, second = client.scheduler_info()["workers"]
    asked, said = [], []

    def check(addresses):
        asked.append(addresses)
        return {first: "same"} if addresses is None else dict.fromkeys(addresses, "other")

    assert workers.admit(check, differing="it is another one") == "same"
    ended = dict(run(workers, pid, [()] * 3, notice=said.append))
    assert set(ended.values()) == set(client.run(pid, workers=[first]).values())
    assert asked == [None, [second]]
    assert said == [f"the worker {second} is left out: it is another one"]


def test_one_resource_of_a_kind_is_kept_until_release(workers, client):
    pids = {str(process) for process in client.run(pid).values()}
    # Long enough for both workers to take part.
    for key in ("one", "two"):
        ended = dict(run(workers, keep_pid, [(key, 0.2)] * 6))
        assert set(ended.values()) == pids
        assert list(client.run(kept).values()) == [{"pid": key}] * 2
    workers.release()
    assert list(client.run(kept).values()) == [{}, {}]


def test_if_any_worker_declares_a_gpu_only_those_get_tasks(client):
    with open_client(dask="local:2") as own:
        own.wait_for_workers(2, timeout=60)
        with_gpu = next(iter(own.scheduler_info()["workers"]))
        own.run(declare_gpu, workers=[with_gpu])
        workers = Workers(own)
        deadline = time.monotonic() + 30
        while workers.usable() != [with_gpu]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        given, submit = [], own.submit

        def watched(*arguments, workers, resources, **options):
            given.append((workers, resources))
            return submit(*arguments, workers=workers, resources=resources, **options)

        own.submit = watched
        ended = dict(run(workers, pid, [()] * 4, 2))
    assert len(set(ended.values())) == 1
    assert given == [([with_gpu], {"GPU": 0.5})] * 4


def test_a_killed_worker_is_replaced_while_tasks_go_on(workers, client, tmp_path):
    pids = set(client.run(pid).values())
    ended = run(workers, span, [(tmp_path, 0.2)] * 12)
    outcomes = [next(ended)[1]]
    os.kill(min(pids), signal.SIGKILL)
    outcomes += [outcome for _, outcome in ended]
    assert len(outcomes) == 12 and all(isinstance(outcome, tuple) for outcome in outcomes)
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(pid).values()) != pids
