"""File systems that lack something, or give less than was asked for: the bytes are the same."""

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from support.handmade_store import (
    LAYER,
    SAMPLES,
    VALUES,
    begin_store,
    files_of,
    write_pending,
)

from declip_pipeline.errors import StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store import open_files
from declip_pipeline.store.generations import OVERWRITE, beside, settle
from declip_pipeline.store.hdf5 import export_store
from declip_pipeline.store.reader import Store
from declip_pipeline.store.verify import verify_store

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def undisturbed(tmp_path) -> dict[str, bytes]:
    write_pending(begin_store(tmp_path / "undisturbed"))
    return files_of(tmp_path / "undisturbed")


def no_locks(patch) -> None:
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    patch.setattr(fcntl, "flock", flock)


def no_flushing_of_folders(patch) -> None:
    fsync = os.fsync

    def of_files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    patch.setattr(os, "fsync", of_files_alone)


def no_hard_links(patch) -> None:
    def link(*given, **options):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    patch.setattr(os, "link", link)


def less_than_asked_for(patch) -> None:
    pread, preadv, writev = os.pread, os.preadv, os.writev

    def first_part(buffers):
        view = memoryview(buffers[0]).cast("B")
        return [view[: len(view) // 2 or len(view)]]

    patch.setattr(os, "pread", lambda file, length, at: pread(file, (length + 1) // 2, at))
    patch.setattr(os, "preadv", lambda file, buffers, at: preadv(file, first_part(buffers), at))
    patch.setattr(os, "writev", lambda file, buffers: writev(file, first_part(buffers)))


def interruptions(patch) -> None:
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)


@pytest.fixture
def quiet_again():
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.usefixtures("quiet_again")
@pytest.mark.parametrize(
    "disk",
    [no_locks, no_flushing_of_folders, no_hard_links, less_than_asked_for, interruptions],
    ids=lambda disk: disk.__name__,
)
def test_a_store_is_written_read_shared_and_replaced(tmp_path, undisturbed, monkeypatch, disk):
    disk(monkeypatch)
    location = tmp_path / "store"
    write_pending(begin_store(location))
    write_pending(begin_store(tmp_path / "grown"), earlier=location)
    write_pending(begin_store(Path(beside(str(location), OVERWRITE))))
    settle(str(location))
    for place in (location, tmp_path / "grown"):
        assert verify_store(place, deep=True).problems == []
        for name, expected in VALUES.items():
            found = Store(place).read_array(name, np.arange(len(SAMPLES)))
            np.testing.assert_array_equal(found, list(expected.values()))
        assert files_of(place) == undisturbed


def test_a_locked_file_is_read(tmp_path):
    """No lock is asked for: HDF5 fails on disks without locks as it does on a held one."""
    write_pending(begin_store(tmp_path / "store"))
    export_store(Store(tmp_path / "store"), tmp_path / "store.h5")
    with (tmp_path / "store.h5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = Store(tmp_path / "store.h5").read_targets(np.arange(3))
    np.testing.assert_array_equal(found, list(VALUES["targets"].values()))


def test_layers_that_differ_in_capitals_alone_are_refused(tmp_path):
    layers = {**LAYER, "LAYER0": LAYER["layer0"]}
    with pytest.raises(StoreError, match="layer0, LAYER0 two differ in capitals alone"):
        begin_store(tmp_path / "store", layers=layers)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("key", ["targets/c.0.0.0", fmt.MANIFEST, fmt.COMPLETE, fmt.GROUP])
def test_a_named_pipe_is_not_waited_for(tmp_path, key):
    write_pending(begin_store(tmp_path / "store"))
    path = tmp_path / "store" / key
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match=r"is no regular file, but a pipe or a device; expected"):
        Store(tmp_path / "store").read_targets(np.arange(3))


def test_open_files_are_few_over_all_stores_together(tmp_path, monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 1)
    write_pending(begin_store(tmp_path / "store"))
    monkeypatch.setattr(open_files.OPEN_FILES, "_most", 10)
    folder = Path("/proc/self/fd")
    stores = [Store(tmp_path / "store") for _ in range(8)]
    stores[0].read_targets(np.arange(3))  # its threads
    before = len(list(folder.iterdir()))
    for _ in range(2):
        for store in stores:
            for name, expected in VALUES.items():
                found = store.read_array(name, np.arange(len(SAMPLES)))
                np.testing.assert_array_equal(found, list(expected.values()))
    assert len(list(folder.iterdir())) - before <= 10
    opened = len(open_files.OPEN_FILES._files)
    assert 0 < opened <= 10
    del store, stores
    assert len(open_files.OPEN_FILES._files) < opened, "a store that has gone holds none"


def test_the_limit_is_a_part_of_the_systems(monkeypatch):
    limits = {"small": (64, 4096), "usual": (1024, 4096), "none": (-1, -1)}
    found = {}
    for name, limit in limits.items():
        monkeypatch.setattr(open_files.resource, "getrlimit", lambda which, limit=limit: limit)
        found[name] = open_files.most_open_files()
    assert found == {"small": 16, "usual": 256, "none": 256}
