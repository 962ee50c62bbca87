"""Local workers and running schedulers are opened, used and closed without a trace."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from distributed import LocalCluster
from support.worker_processes import all_end, loops

from declip_pipeline.errors import InputError
from declip_pipeline.jobs import cluster
from declip_pipeline.jobs.cluster import open_client

# Seconds after which something hangs. It takes one or two, on a machine with nothing else to do.
HANGING = 30
FORMS = (
    'expected `dask="local:N"` (N worker processes here), `dask="slurm:FILE.yaml"` (SLURM jobs), '
    'or `scheduler="tcp://HOST:PORT"` (one that runs already)'
)


def own_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def leave_pid(folder: Path, name: int) -> int:
    """Writes a file once it has begun; of two processes, the first never comes to an end."""
    (folder / f"{name}-{os.getpid()}").touch()
    time.sleep(60 if len(list(folder.glob(f"{name}-*"))) == 1 and name == 0 else 0.1)
    return os.getpid()


def started(folder: Path, name: int) -> int:
    deadline = time.monotonic() + 60
    while not (found := list(folder.glob(f"{name}-*"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(found[0].name.split("-")[1])


def processes(parent: int) -> list[psutil.Process]:
    """Those that a process started, without Python's own keeper of semaphores."""
    return [
        process
        for process in psutil.Process(parent).children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())
    ]


@pytest.fixture(scope="module")
def local():
    with open_client(dask="local:2") as client:
        yield client


@pytest.mark.cluster
def test_local_workers_are_processes_of_their_own(local):
    pids = set(local.gather(local.map(own_pid, [0.2] * 6, pure=False)))
    assert len(pids) == 2
    assert os.getpid() not in pids
    workers = local.scheduler_info()["workers"].values()
    assert [worker["nthreads"] for worker in workers] == [2, 2]
    assert [worker["memory_limit"] for worker in workers] == [0, 0]
    # As many threads as here, so that sums come out the same.
    environments = local.run(lambda: dict(os.environ)).values()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        assert {e.get(name) for e in environments} == {os.environ.get(name)}
    assert {e["OMP_WAIT_POLICY"] for e in environments} == {"PASSIVE"}


@pytest.mark.cluster
def test_a_killed_worker_comes_back_and_its_task_is_run_again(local, tmp_path):
    torn = local.submit(leave_pid, tmp_path, 0)
    killed = started(tmp_path, 0)
    os.kill(killed, signal.SIGKILL)
    assert torn.result(timeout=60) != killed
    local.wait_for_workers(2, timeout=60)
    pids = set(local.run(os.getpid).values())
    assert len(pids) == 2
    assert killed not in pids


SESSION = """
import os, signal, sys, time
from declip_pipeline.jobs.cluster import open_client

def fail():
    raise ValueError("a task that fails")

if __name__ == "__main__":
    # A job in the background of a script is started with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = dict(os.environ)
    try:
        with open_client(dask="local:2") as client:
            assert "a task that fails" in str(client.submit(fail).exception())
            killed, other = client.run(os.getpid).values()
            os.kill(killed, signal.SIGKILL)
            pids = {killed}
            while len(pids) < 2 or killed in pids:
                time.sleep(0.1)
                pids = set(client.run(os.getpid, on_error="ignore").values())
            (scratch, _) = client.run(lambda dask_worker: dask_worker.local_directory).values()
            busy = client.map(time.sleep, range(60, 68))
            time.sleep(0.3)
            print(scratch, flush=True)
            client.gather(busy)
    except KeyboardInterrupt:
        print(dict(os.environ) == before, flush=True)
        sys.exit(130)
"""


@pytest.fixture
def session(tmp_path):
    """A process with two busy local workers, in a terminal of its own."""
    (tmp_path / "session.py").write_text(SESSION)
    (tmp_path / "here").mkdir()
    with subprocess.Popen(
        [sys.executable, tmp_path / "session.py"],
        cwd=tmp_path / "here",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.cluster
def test_ctrl_c_ends_all_quickly_and_without_a_word(session, tmp_path):
    scratch = Path(session.stdout.readline().strip())
    workers = processes(session.pid)
    assert len(workers) == 2
    assert scratch.is_dir()
    began = time.monotonic()
    # Whoever presses it twice gains nothing, and loses nothing.
    os.killpg(session.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(session.pid, signal.SIGINT)
    out, err = session.communicate(timeout=60)
    assert time.monotonic() - began < HANGING
    assert session.returncode == 130
    assert err == ""
    assert out == "True\n"
    assert all_end(workers)
    assert not scratch.exists()
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.cluster
def test_workers_end_with_a_process_that_is_killed(session):
    session.stdout.readline()
    workers = processes(session.pid)
    assert len(workers) == 2
    session.kill()
    assert session.communicate(timeout=60) == ("", "")
    assert all_end(workers)


@pytest.mark.cluster
def test_an_error_inside_closes_all_and_restores_the_log():
    handler = logging.StreamHandler()
    logging.getLogger("distributed").addHandler(handler)
    before = loops()
    with pytest.raises(KeyError, match="my own"), open_client(dask="local:1") as client:
        pids = set(client.run(os.getpid).values())
        workers = [psutil.Process(pid) for pid in pids]
        client.submit(time.sleep, 60)
        assert handler.level > logging.CRITICAL
        began = time.monotonic()
        raise KeyError("my own")
    assert time.monotonic() - began < HANGING
    assert len(workers) == 1
    assert all_end(workers)
    assert loops() == before
    assert handler.level == logging.NOTSET
    logging.getLogger("distributed").removeHandler(handler)


@pytest.mark.parametrize(
    "text",
    ["local:0", "local:x", "local:-1", "local:", "local:1000", "foo:1", "slurm:", "slurm", ""],
)
def test_other_forms_are_refused(text):
    with pytest.raises(InputError) as refusal, open_client(dask=text):
        pass
    assert str(refusal.value) == f"{text!r} is not a Dask cluster; {FORMS}"


def test_one_of_the_two_must_be_given():
    with pytest.raises(InputError) as refusal, open_client():
        pass
    assert str(refusal.value) == f"no Dask cluster is given; {FORMS}"
    with (
        pytest.raises(InputError) as refusal,
        open_client(dask="local:1", scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    assert str(refusal.value) == f"both workers and a scheduler are given; {FORMS}"


def test_a_worker_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cluster._worker_environments(2) == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert cluster._worker_environments(1) == [{"CUDA_VISIBLE_DEVICES": "5"}]
    with pytest.raises(InputError) as refusal, open_client(dask="local:3"):
        pass
    assert str(refusal.value) == (
        '`dask="local:3"` asks for 3 workers, but there are 2 GPUs, one for each; give '
        '`dask="local:2"`, or set CUDA_VISIBLE_DEVICES= to compute on the CPU'
    )


@pytest.mark.cluster
def test_a_worker_with_a_gpu_declares_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with open_client(dask="local:1") as client:
        chosen = client.submit(os.getenv, "CUDA_VISIBLE_DEVICES", resources={"GPU": 1})
        assert chosen.result(timeout=60) == "3"


@pytest.fixture(scope="module")
def running():
    """A scheduler that runs already, yet without workers."""
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as running:
        yield running


@pytest.mark.cluster
def test_a_running_scheduler_is_used_and_left_running(running, monkeypatch):
    address = running.scheduler_address
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "WAIT_SECONDS", 0.3)
        with pytest.raises(InputError) as refusal, open_client(scheduler=address):
            pass
    assert str(refusal.value) == (
        f"no worker has come to {address} within 0.3 s; start some with "
        f"`dask worker {address} --nthreads 2`"
    )
    running.scale(1)
    running.wait_for_workers(1, timeout=60)
    (worker,) = running.scheduler_info["workers"]
    with (
        pytest.raises(InputError, match="no Dask scheduler answers"),
        open_client(scheduler=worker),
    ):
        pass
    for _ in range(2):
        with open_client(scheduler=address) as client:
            assert client.submit(own_pid, 0, pure=False).result(timeout=60) == os.getpid()


@pytest.mark.parametrize(
    "text",
    ["here", "tcp://", "tcp://host", "tcp://host:x", "tcp://host:99999", "http://host:8786", ""],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError) as refusal, open_client(scheduler=text):
        pass
    assert str(refusal.value) == (
        f"`scheduler` {text!r} is not an address; expected tcp://HOST:PORT, as `dask scheduler` "
        "prints it"
    )


@pytest.mark.slow
@pytest.mark.parametrize("listening", [False, True], ids=["nothing", "not Dask"])
def test_where_no_scheduler_answers(listening, monkeypatch):
    assert cluster.CONNECT_SECONDS == 10
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listening:
            other.listen()
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InputError) as refusal, open_client(scheduler=address):
            pass
        assert time.monotonic() - began < HANGING
    assert str(refusal.value) == (
        f"no Dask scheduler answers at {address} within 1 s; start one with `dask scheduler`, "
        "which prints its address, or see why it cannot be reached"
    )
