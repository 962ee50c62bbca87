"""Dask workers write the same bytes as one process, even if workers die meanwhile."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import TILES, TINY_VIT
from support.handmade_store import files_of
from support.made_dataset import write_dataset
from support.worker_processes import declare_gpu, pid, pretend_version, separate_cluster

from declip_pipeline import __version__
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import DeclipError, InputError, StoreError
from declip_pipeline.extraction import sample_reading
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.task import ShardWorkers
from declip_pipeline.images.views import parse_view
from declip_pipeline.jobs import worker
from declip_pipeline.jobs.cluster import open_client
from declip_pipeline.store import format as fmt

pytestmark = pytest.mark.cluster

PICTURES = {"train": 20, "valid": 10, "test": 10}
SHARDS = 10
ARCH = {"arch": "CLIP:from-file", "weights": [str(TINY_VIT)]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset") / "noisy", PICTURES)


@pytest.fixture(scope="module")
def client():
    with open_client(dask="local:2") as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)


def run(pictures, backbone, root, **changes):
    opened = open_dataset(pictures)
    options = {"layers": ["layer0", "layer3"], "root": root, "batch_size": 4}
    return extract_store(opened, backbone, **(options | changes))


def by_workers(client):
    return ShardWorkers(client, **ARCH)


@pytest.fixture(scope="module")
def undisturbed(pictures, tiny_backbone, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "ROWS_PER_SHARD", 4)
        return run(pictures, tiny_backbone, tmp_path_factory.mktemp("one")).location


def test_a_real_network_gives_the_same_bytes_in_a_shard_that_fills_no_batch(client, tmp_path):
    # Other numbers of threads would sum a batch of 5 in another order.
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    dataset = write_dataset(tmp_path / "noisy", {"train": 13})
    arguments = {"layers": list(backbone.layers), "batch_size": 8}
    alone = run(dataset, backbone, tmp_path / "one", **arguments)
    workers = ShardWorkers(client, arch="efficientnet-lite0")
    both = run(dataset, backbone, tmp_path / "two", workers=workers, **arguments)
    assert files_of(Path(both.location)) == files_of(Path(alone.location))


def test_tiles_have_the_same_bytes_as_those_of_one_process(client, tmp_path):
    dataset = write_dataset(tmp_path / "noisy", {"train": 5})
    backbone = open_backbone(
        "CLIP:from-file", weights=[str(TINY_VIT)], image_size=TILES.size, device="cpu"
    )
    arguments = {"layers": ["layer1"], "tiles": TILES, "provenance": ARCH}
    alone = run(dataset, backbone, tmp_path / "one", **arguments)
    both = run(dataset, backbone, tmp_path / "two", workers=by_workers(client), **arguments)
    assert files_of(Path(both.location)) == files_of(Path(alone.location))
    assert both.samples.are_tiles


def test_workers_keep_one_backbone_and_forget_it(client, pictures, tiny_backbone, tmp_path):
    workers = by_workers(client)
    for view in ("clean", "jpeg:70"):
        run(pictures, tiny_backbone, tmp_path, workers=workers, view=parse_view(view))
    kept = client.run(_kept_backbones).values()
    assert all(count <= 1 for count in kept) and sum(kept) > 0
    workers.release()
    assert not any(client.run(_kept_backbones).values())


def _kept_backbones():
    return sum(kind == "backbone" for kind in worker._kept)


def _slow_down(seconds):
    """In a worker: every image takes this long."""
    decode = getattr(sample_reading, "undelayed", sample_reading.decode_image)
    sample_reading.undelayed = decode

    def slow(*arguments, **options):
        time.sleep(seconds)
        return decode(*arguments, **options)

    sample_reading.decode_image = slow


def committed(location):
    folder = Path(location, "ledger")
    return sorted(folder.glob("*.json")) if folder.exists() else []


def test_two_workers_write_what_one_process_does(
    client, pictures, tiny_backbone, tmp_path, undisturbed
):
    times, told = StageTimes(), []
    made = run(
        pictures,
        tiny_backbone,
        tmp_path,
        workers=by_workers(client),
        times=times,
        progress=lambda done, total: told.append((done, total)),
    )
    assert files_of(Path(made.location)) == files_of(Path(undisturbed))
    assert told[0] == (0, 40) and told[-1] == (40, 40) and len(told) == SHARDS + 2
    assert all(times.seconds[stage] > 0 for stage in ("decode", "forward", "write"))
    again = run(pictures, tiny_backbone, tmp_path, workers=by_workers(client))
    assert again.was_complete


def test_a_killed_worker_costs_what_it_had_under_way(
    client, pictures, tiny_backbone, tmp_path, undisturbed
):
    client.run(_slow_down, 0.15)
    pids = client.run(pid)
    before = {}

    def kill_one(done, total):
        if done >= 8 and not before:
            location = next(tmp_path.glob("*/*/*"))
            before.update({file: file.stat().st_mtime_ns for file in committed(location)})
            os.kill(min(pids.values()), signal.SIGKILL)

    made = run(pictures, tiny_backbone, tmp_path, workers=by_workers(client), progress=kill_one)
    assert len(before) >= 2
    for file, written in before.items():
        assert file.stat().st_mtime_ns == written, "what was committed was not done again"
    assert files_of(Path(made.location)) == files_of(Path(undisturbed))
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(pid).values()) != set(pids.values()), "it was started again"


def test_after_the_scheduler_is_lost_the_same_command_goes_on(
    pictures, tiny_backbone, tmp_path, undisturbed
):
    with separate_cluster(tmp_path) as cluster, open_client(scheduler=cluster.address) as client:
        client.run(_slow_down, 0.1)

        def kill_all(done, total):
            if done:
                cluster.kill()

        with pytest.raises(DeclipError, match="the Dask scheduler is gone; start it and run"):
            run(
                pictures,
                tiny_backbone,
                tmp_path / "cache",
                workers=by_workers(client),
                progress=kill_all,
            )
    location = next((tmp_path / "cache").glob("*/*/*"))
    assert 0 < len(committed(location)) < SHARDS
    made = run(pictures, tiny_backbone, tmp_path / "cache")
    assert files_of(Path(made.location)) == files_of(Path(undisturbed))


def test_workers_take_what_earlier_stores_have(
    client, pictures, tiny_backbone, tmp_path, monkeypatch
):
    # A relative place must be the same for workers, whose current folder is another.
    monkeypatch.chdir(tmp_path)
    run(pictures, tiny_backbone, "cache", layers=["layer0"])
    both = run(pictures, tiny_backbone, "cache", workers=by_workers(client))
    alone = run(pictures, tiny_backbone, "alone")
    assert files_of(Path(both.location)) == files_of(Path(alone.location))
    first = next(Path("cache").glob("*/*/*/layers/layer0/c.0.0.0"))
    shared = list(Path("cache").glob("*/*/*/layers/layer0/c.0.0.0"))
    assert len(shared) == 2 and all(file.samefile(first) for file in shared)


def test_failures_are_the_same_as_in_one_process(client, tiny_backbone, tmp_path):
    dataset = write_dataset(tmp_path / "noisy", {"train": 9})
    broken = sorted((dataset / "images" / "train").iterdir())[5]
    broken.write_bytes(b"no image")
    one = run(dataset, tiny_backbone, tmp_path / "one")
    two = run(dataset, tiny_backbone, tmp_path / "two", workers=by_workers(client))
    assert list(two.failures) == [5]
    assert files_of(Path(two.location)) == files_of(Path(one.location))


def test_what_a_worker_raises_ends_the_extraction(client, tiny_backbone, tmp_path):
    dataset = write_dataset(tmp_path / "noisy", {"train": 9})

    def change_a_picture(done, total):
        if not done:
            picture = sorted((dataset / "images" / "train").iterdir())[7]
            picture.write_bytes(picture.read_bytes() + b" ")

    with pytest.raises(
        StoreError, match="the worker on .*has changed since its dataset was first read"
    ):
        run(
            dataset,
            tiny_backbone,
            tmp_path / "cache",
            workers=by_workers(client),
            progress=change_a_picture,
        )


def test_a_worker_of_another_version_is_refused_before_anything_is_written(
    client, pictures, tiny_backbone, tmp_path
):
    client.run(pretend_version, "0.0.1")
    try:
        with pytest.raises(InputError, match=rf"has declip-pipe 0\.0\.1, this is {__version__}"):
            run(pictures, tiny_backbone, tmp_path / "cache", workers=by_workers(client))
    finally:
        client.run(pretend_version, __version__)
    assert nothing_in(tmp_path / "cache")


def test_a_worker_that_does_not_see_the_pictures_is_refused(
    client, pictures, tiny_backbone, tmp_path, monkeypatch
):
    # This path leads every process to its own current folder.
    monkeypatch.chdir(pictures.parent)
    own = Path("/proc/self/cwd", pictures.name)
    client.run(os.chdir, "/")
    with pytest.raises(InputError, match=r"sees no /proc/.* of SHA-256 .*nothing \(No such file"):
        run(own, tiny_backbone, tmp_path / "cache", workers=by_workers(client))
    assert nothing_in(tmp_path / "cache")


@pytest.mark.parametrize("what", ["root", "weights"])
def test_a_worker_that_does_not_see_stores_or_weights_is_refused(
    client, pictures, tiny_backbone, tmp_path, monkeypatch, what
):
    monkeypatch.chdir(tmp_path)
    own = Path("/proc/self/cwd")
    client.run(os.chdir, "/")
    workers = by_workers(client)
    root = tmp_path / "cache"
    if what == "root":
        root = own / "cache"
        line = "sees another `cache` /proc/self/cwd/cache; expected a disk that all"
    else:
        (tmp_path / "weights.pt").write_bytes(TINY_VIT.read_bytes())
        weights = str(own / "weights.pt")
        workers = ShardWorkers(client, arch=ARCH["arch"], weights=[weights])
        line = "sees no weights /proc/self/cwd/weights.pt of .* bytes, but nothing"
    with pytest.raises(InputError, match=line):
        run(pictures, tiny_backbone, root, workers=workers)
    assert nothing_in(tmp_path / "cache")


def nothing_in(folder):
    return not any(file.is_file() for file in folder.rglob("*"))


def test_workers_that_declare_a_gpu_are_given_shards_by_it(
    client, pictures, tiny_backbone, tmp_path, undisturbed
):
    client.run(declare_gpu)
    made = run(pictures, tiny_backbone, tmp_path, workers=by_workers(client))
    assert files_of(Path(made.location)) == files_of(Path(undisturbed))
