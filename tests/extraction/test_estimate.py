"""A dry run says what the store will be, and leaves nothing behind."""

import fcntl
import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.handmade_store import begin_store, write_pending

from declip_pipeline.extraction.estimate import _trial_folder, picture_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.catalog import list_stores


def files_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("c.*") if file.is_file())


def price(text: str) -> dict[str, str]:
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in text.strip().splitlines())


@pytest.mark.slow
def test_the_price_is_that_of_the_store(program, shared_dataset, tiny_arch, tmp_path):
    cache = tmp_path / "cache"
    command = ("extract", shared_dataset, *tiny_arch, "--layers", "0-2", "--cache", cache)
    outcome = program(*command, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert not cache.exists(), "a dry run writes nothing there"
    told = price(outcome.out)
    extraction = program(*command)
    assert told["store"] == extraction.last_line
    assert told["images"] == "15"
    assert told["layers"] == "layer0, layer1, layer2 of CLIP:from-file"
    assert told["dtype"] == "float16"
    size = files_in(Path(extraction.last_line)) / 1e9
    assert abs(float(told["size"].removesuffix(" GB")) - size) <= 0.1 * size + 0.0005
    assert told["free"].endswith("GB")
    assert told["time"].endswith(" s")
    assert 0.1 < float(told["memory"].removesuffix(" GB at most")) < 10


@pytest.mark.slow
def test_what_is_there_costs_nothing(program, shared_dataset, tiny_arch, tmp_path):
    command = ("extract", shared_dataset, *tiny_arch, "--cache", tmp_path / "cache")
    assert program(*command, "--layers", "0-2").code == 0
    told = price(program(*command, "--layers", "1", "--dry-run").out)
    assert told["images"] == "15, 15 of them from earlier stores"
    assert told["time"] == "0 s"


@pytest.mark.slow
def test_what_an_interrupted_run_has_done_costs_nothing(
    program, shared_dataset, tiny_arch, tmp_path, monkeypatch
):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)
    command = ("extract", shared_dataset, *tiny_arch, "--cache", tmp_path / "cache")
    store = Path(program(*command).last_line)
    told = price(program(*command, "--dry-run").out)
    assert told["images"] == "15, 15 of them done already"
    assert told["time"] == "0 s"
    (store / "complete.json").unlink()
    (store / "ledger" / "000002.json").unlink()
    assert price(program(*command, "--dry-run").out)["images"] == "15, 11 of them done already"
    assert price(program(*command, "--dry-run", "--overwrite").out)["images"] == "15"
    assert [folder.name for folder in tmp_path.iterdir()] == ["cache"], "no trial is left"


def test_what_a_killed_estimate_left_is_no_store_and_goes(tmp_path):
    left, used = (tmp_path / f".declip-pipe-trial-{name}" for name in ("left", "used"))
    for folder in (left, used):
        write_pending(begin_store(folder / "store"))
    assert list_stores(tmp_path) == []
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with _trial_folder(tmp_path) as own:
        assert {folder.name for folder in tmp_path.iterdir()} == {used.name, Path(own).name}
        with _trial_folder(tmp_path):
            assert Path(own).exists()
    os.close(descriptor)
    with _trial_folder(tmp_path):
        assert not used.exists()
    assert list(tmp_path.iterdir()) == []


def test_large_pictures_need_memory():
    sizes = np.asarray([[8000, 8000], [4000, 4000], [0, 0]], np.int32)
    threads = len(os.sched_getaffinity(0))
    # Their masks, and of the largest its colours twice and its mask in each thread.
    assert picture_bytes(sizes, sizes) == 64e6 + 16e6 + 7 * 64e6 * threads


@pytest.mark.slow
def test_of_several_views_each_has_its_price(program, shared_dataset, tiny_arch, tmp_path):
    outcome = program(
        *("extract", shared_dataset, *tiny_arch, "--cache", tmp_path / "cache", "--layers", 1),
        *("--views", "clean,jpeg:40", "--augment", "blur:1", "--dry-run"),
    )
    views = re.findall(r"^view +(\S+)$", outcome.out, re.MULTILINE)
    assert views == ["clean", "jpeg-40", "blur.random0"]
    assert re.findall(r"^images +(\S+)$", outcome.out, re.MULTILINE) == ["15", "15", "8"]
