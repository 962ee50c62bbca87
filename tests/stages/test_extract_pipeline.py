"""The options of `extract` that say where and how it computes."""

from pathlib import Path

import pytest
from conftest import TINY_VIT
from support.handmade_store import files_of

from declip_pipeline.extraction.stage_times import STAGES

ARCH = ("--arch", "CLIP:from-file", "--weights", TINY_VIT)


@pytest.mark.slow
def test_profile_says_where_the_time_went(program, shared_dataset, tmp_path):
    outcome = program("extract", shared_dataset, *ARCH, "--cache", tmp_path, "--profile")
    assert outcome.code == 0
    table = outcome.err[outcome.err.index("stage ") :].splitlines()
    seconds = {line.split()[0]: float(line.split()[1]) for line in table[1:]}
    assert list(seconds) == [*STAGES, "wall"]
    own_thread = sum(seconds[stage] for stage in ("hash", "wait", "copy", "forward", "encode"))
    assert 0 < own_thread + seconds["queue"] <= seconds["wall"] + 0.05
    assert "stage" not in outcome.out, "stdout has the store's path alone"


@pytest.mark.cluster
def test_workers_make_the_same_store(program, shared_dataset, tmp_path):
    arguments = ("extract", shared_dataset, *ARCH)
    alone = program(*arguments, "--cache", tmp_path / "one")
    outcome = program(*arguments, "--cache", tmp_path / "two", "--dask", "local:2", "--profile")
    assert outcome.code == 0, outcome
    assert files_of(Path(outcome.last_line)) == files_of(Path(alone.last_line))
    assert "forward " in outcome.err
    again = program(*arguments, "--cache", tmp_path / "two", "--dask", "local:2")
    assert "nothing to do" in again.err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--dask", "local:2", "--dry-run"), "--dry-run tries this machine; leave out --dask"),
        (("--dask", "local:none"), r"'local:none' is not a Dask cluster; expected --dask local:N"),
        (
            ("--dask", "local:1", "--scheduler", "tcp://127.0.0.1:1"),
            "both workers and a scheduler are given",
        ),
        (("--scheduler", "here"), "--scheduler 'here' is not an address; expected tcp://HOST"),
        (("--dask", "slurm:nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(refused, shared_dataset, tmp_path, options, line):
    cache = tmp_path / "cache"
    assert line in refused("extract", shared_dataset, *ARCH, "--cache", cache, *options)
    assert not cache.exists()
