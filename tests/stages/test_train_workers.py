"""`declip-pipe train` and `ablate` on Dask workers: interrupted and gone on with, and refusals."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from stages.app import main; main()"]


def rows_of(path):
    with Path(path).open(newline="") as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


@pytest.mark.cluster
def test_a_grid_on_workers_is_interrupted_and_goes_on(program, tiny_store, tmp_path, monkeypatch):
    arguments = [
        *("train", tiny_store.location, "--layers", "0-1", "--decoders", "linear"),
        *("--seeds", "0,1", "--epochs", "15", "--batch-size", "4"),
    ]
    command = [*arguments, "-o", str(tmp_path / "runs"), "--dask", "local:2"]
    process = subprocess.Popen(
        [*PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if line.startswith("declip-pipe: ")]
    assert lines == ["declip-pipe: interrupted; run the same command again to finish its work"]
    assert out == "" and "Traceback" not in err
    assert not all(row["state"] == "finished" for row in rows_of(*tmp_path.glob("*/*/results.csv")))
    monkeypatch.chdir(tmp_path)
    outcome = program(*arguments, "-o", "runs", "--dask", "local:2")
    assert outcome.code == 0, outcome
    assert "4 of 4 runs done" in outcome.err
    alone = program(*arguments, "-o", "alone")
    rows = rows_of(outcome.last_line)
    assert rows == [
        row | {"run": row["run"].replace("alone", "runs")} for row in rows_of(alone.last_line)
    ]
    for row in rows:
        name = Path(row["run"]).name
        made, same = (
            Path(folder, name, "checkpoint_best.safetensors").read_bytes()
            for folder in ("runs", "alone")
        )
        assert made == same


@pytest.mark.cluster
def test_one_run_on_a_worker_is_a_grid_and_ablate_judges_what_workers_trained(
    program, tiny_store, tmp_path
):
    quick = ("--epochs", 1, "--batch-size", 4, "-o", tmp_path, "--dask", "local:1")
    one = program("train", tiny_store.location, "--layers", "layer1", *quick, "--widths", "8,8,4,4")
    assert one.code == 0, one
    (row,) = rows_of(one.last_line)
    assert row["state"] == "finished" and row["decoder_type"] == "conv-20"
    outcome = program("ablate", tiny_store.location, "--layers", "layer0,layer1", *quick)
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        [layer, tested_on] for layer in ("layer0", "layer1") for tested_on in ("noisy", "all")
    ]
    assert Path(outcome.last_line).name == "ablation.png"


@pytest.mark.parametrize("command", ["train", "ablate"])
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--dask", "local:0"), "'local:0' is not a Dask cluster; expected --dask local:N"),
        (
            ("--dask", "local:1", "--scheduler", "tcp://127.0.0.1:1"),
            "both workers and a scheduler are given",
        ),
        (("--scheduler", "here"), "--scheduler 'here' is not an address; expected tcp://HOST"),
        (("--dask", "slurm:nowhere.yaml"), "nowhere.yaml"),
        (("--dask", "local:1", "--layers", "layer9"), "unknown layer 'layer9'"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(refused, tiny_store, tmp_path, command, options, line):
    runs = tmp_path / "runs"
    layers = () if "--layers" in options else ("--layers", "layer0")
    options += ("--batch-size", 4)
    assert line in refused(command, tiny_store.location, *layers, *options, "-o", runs)
    assert not runs.exists()
