"""SLURM jobs are submitted, replaced and cancelled, by stand-ins of sbatch and scancel."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from support.worker_processes import all_end, loops

from declip_pipeline.errors import InputError
from declip_pipeline.jobs import quiet
from declip_pipeline.jobs import slurm as slurm_jobs
from declip_pipeline.jobs.cluster import open_client
from declip_pipeline.jobs.slurm import read_slurm_file

CONFIG = Path(__file__).parents[2] / "configs" / "slurm.yaml"
# Seconds after which something hangs. It takes one or two on an idle machine.
HANGING = 30


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of one machine: sbatch runs a job in the background, scancel ends it."""
    commands = {
        "sbatch": 'cp "$1" job-$$.sh; setsid bash job-$$.sh > job-$$.log 2>&1 & '
        'echo "Submitted batch job $!"; echo $! >> submitted',
        "scancel": 'echo $1 >> cancelled; kill -TERM -- "-$1"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/usr/bin/env bash\ncd {tmp_path}\n{text}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def adapted(folder: Path, **changes: object) -> str:
    """The packaged settings with some values of one's own, in a file."""
    values = yaml.safe_load(CONFIG.read_text())
    values |= {"log_directory": str(folder / "logs")} | changes
    file = folder / "slurm.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return str(file)


@pytest.mark.cluster
def test_slurm_jobs_are_submitted_replaced_and_cancelled(slurm, monkeypatch):
    monkeypatch.setattr(slurm_jobs, "RESUBMIT_SECONDS", 0.3)
    monkeypatch.setitem(quiet.CONFIG, "distributed.deploy.lost-worker-timeout", "0.1s")
    submitted, cancelled = slurm / "submitted", slurm / "cancelled"
    sbatch = slurm / "bin" / "sbatch"
    refuse_once = f"[ -e {slurm}/refuse ] && {{ rm {slurm}/refuse; exit 1; }}\n"
    sbatch.write_text(sbatch.read_text().replace("\ncd", f"\n{refuse_once}cd"))
    with open_client(dask=f"slurm:{adapted(slurm, jobs=1)}") as client:
        (worker,) = client.scheduler_info()["workers"].values()
        assert worker["nthreads"] == 2
        assert worker["resources"] == {"GPU": 1}
        assert worker["memory_limit"] == 0
        first = client.submit(os.getpid, pure=False, resources={"GPU": 1}).result(timeout=60)
        (job,) = map(int, submitted.read_text().split())
        (slurm / "refuse").touch()
        os.killpg(job, signal.SIGKILL)
        second = client.submit(os.getpid, pure=False, resources={"GPU": 1}).result(timeout=60)
        assert second not in (first, os.getpid())
        jobs = submitted.read_text().split()
        assert len(jobs) == 2 and not (slurm / "refuse").exists()
        workers = [psutil.Process(second)]
        client.submit(time.sleep, 60)
        began = time.monotonic()
    assert time.monotonic() - began < HANGING
    assert all_end(workers)
    assert cancelled.read_text().split() == jobs
    (script, _) = sorted(slurm.glob("job-*.sh"))
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --cpus-per-task=8" in directives
    assert "#SBATCH -t 24:00:00" in directives
    assert "#SBATCH --mem=64G" in directives
    assert "#SBATCH --gpus=1" in directives


@pytest.mark.cluster
def test_a_job_that_never_runs(slurm):
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    file = adapted(slurm, wait_minutes=0.01)
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{file}"):
        pass
    message = str(refusal.value)
    assert message.startswith("no worker has come to tcp://")
    assert message.endswith(
        "within 0.6 s; see `squeue --me` and the jobs' own files, or raise wait_minutes in " + file
    )
    assert (slurm / "cancelled").read_text() == "7\n" * 4


def test_a_job_that_sbatch_refuses(slurm):
    (slurm / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n"
    )
    file = adapted(slurm, queue="x")
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{file}"):
        pass
    assert str(refusal.value) == f"sbatch refuses {file}: invalid partition specified: x"


def test_a_refused_job_cancels_those_that_were_submitted(slurm):
    (slurm / "bin" / "sbatch").write_text(
        f"#!/bin/sh\nmkdir {slurm}/first 2>/dev/null || "
        "{ sleep 0.2; echo 'sbatch: error: too many jobs' >&2; exit 1; }\n"
        "echo Submitted batch job 7\n"
    )
    file = adapted(slurm)
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{file}"):
        pass
    assert str(refusal.value) == f"sbatch refuses {file}: too many jobs"
    assert (slurm / "cancelled").read_text() == "7\n"


def test_without_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{adapted(tmp_path)}"):
        pass
    assert str(refusal.value) == (
        '`dask="slurm:"` submits jobs with sbatch, which is not on this machine; run on a '
        'cluster\'s login node, or give `dask="local:N"`'
    )


def test_without_dask_jobqueue(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue.core", None)
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{adapted(tmp_path)}"):
        pass
    assert str(refusal.value) == (
        "`dask=\"slurm:\"` needs dask-jobqueue; install it with pip install 'declip-pipe[slurm]'"
    )


def test_the_packaged_slurm_file():
    jobs = read_slurm_file(str(CONFIG))
    assert (jobs.count, jobs.wait_minutes) == (4, 60)
    assert jobs.arguments["processes"] == 1
    assert jobs.arguments["job_extra_directives"] == ["--nodes=1", "--gpus=1"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"jobs": None, "memory": None}, "FILE lacks jobs, memory; see configs/slurm.yaml for"),
        ({"partition": "gpu"}, "unknown key in FILE 'partition'; known: account, cores, "),
        ({"wall_time": "1:00"}, "unknown key in FILE 'wall_time'; did you mean 'walltime'? "),
        ({"jobs": 0}, "FILE: jobs is 0; expected a whole number from 1 on"),
        ({"cores": "two"}, "FILE: cores is 'two'; expected a whole number from 1 on"),
        ({"walltime": 86400}, "FILE: walltime is a number; expected a text in quotes:"),
        ({"worker_extra_args": "-x"}, "FILE: worker_extra_args is '-x'; expected a list,"),
        ({"wait_minutes": "long"}, "FILE: wait_minutes is 'long'; expected minutes above 0"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    file = adapted(tmp_path, **changes)
    with pytest.raises(InputError) as refusal:
        read_slurm_file(file)
    assert str(refusal.value).replace(file, "FILE").startswith(message)


@pytest.mark.parametrize("key, value", [("memory", "much"), ("interface", "ib99")])
def test_a_value_that_dask_jobqueue_refuses(slurm, key, value):
    file, before = adapted(slurm, **{key: value}), loops()
    with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{file}"):
        pass
    assert str(refusal.value).startswith(f"{file}: ")
    assert value in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert loops() == before


def test_files_that_are_no_settings(tmp_path):
    file = tmp_path / "slurm.yaml"
    for text, message in [
        (None, "cannot be read; expected a YAML file such as configs/slurm.yaml"),
        ("jobs: [", "is not YAML: "),
        ("- 4", "holds no settings; expected keys and values: jobs, cores, memory"),
    ]:
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError) as refusal, open_client(dask=f"slurm:{file}"):
            pass
        assert str(refusal.value).startswith(f"{file} {message}")
