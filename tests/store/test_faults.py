"""A writer that is killed, meets a fault, or loses its power, at any of its steps on the disk.

A tiny store is written again and again; each time it happens at another step: the first, the
second, ... the last. What is left must be no store to a reader, or all of it, and the next writer
must finish it byte for byte.
"""

import errno
import io
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.handmade_store import (
    ROWS_PER_SHARD,
    VALUES,
    begin_store,
    files_of,
    require_no_store,
    write_pending,
)

from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store import writer as writer_module
from declip_pipeline.store.generations import (
    FORMER,
    OVERWRITE,
    beside,
    delete_store,
    replacement_of,
    settle,
)
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import storage_at


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small shards, one step after another, metadata made once, and flushes that do nothing: what
    was written outlives the end of a process."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", ROWS_PER_SHARD)
    monkeypatch.setattr(writer_module, "WRITING_THREADS", 1)
    made: list[dict[str, bytes]] = []
    metadata_blobs = fmt.metadata_blobs

    def once(attributes: Any, arrays: Any, samples: Any) -> dict[str, bytes]:
        if not made:
            made.append(metadata_blobs(attributes, arrays, samples))
        return dict(made[0])

    monkeypatch.setattr(fmt, "metadata_blobs", once)


def write_store(path: Path, earlier: Path | None = None) -> None:
    write_pending(begin_store(path), earlier)


@pytest.fixture
def earlier(tmp_path) -> Path:
    """A store that shares its layer's files; those of the other arrays are made anew."""
    write_store(tmp_path / "earlier")
    return tmp_path / "earlier"


@pytest.fixture
def undisturbed(tmp_path) -> dict[str, bytes]:
    write_store(tmp_path / "undisturbed")
    return files_of(tmp_path / "undisturbed")


def require_finished(path: Path, earlier: Path, undisturbed: dict[str, bytes]) -> bool:
    """What is left is no store or all of it, and the next writer finishes it.

    Says whether it was all of it.
    """
    complete = True
    try:
        store = Store(path)
    except StoreError as error:
        require_no_store(error)
        complete = False
    else:
        for name, expected in VALUES.items():
            read = store.read_array(name, np.arange(len(expected)))
            np.testing.assert_array_equal(read, list(expected.values()))
    write_store(path, earlier)
    found = files_of(path)
    assert sorted(found) == sorted(undisturbed)
    assert [name for name in undisturbed if found[name] != undisturbed[name]] == []
    shutil.rmtree(path)
    return complete


# What a writer does on a disk, step by step.
STEPS = [
    (os, "mkdir"),
    (io, "open"),
    (os, "writev"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "link"),
    (os, "unlink"),
    (os, "rmdir"),
]
Step = Callable[..., Any]


@contextmanager
def watched(take: Callable[[str, Step, tuple[Any, ...]], Any]) -> Iterator[None]:
    """Within, `take` stands in for each step: it gets its name, the step, and its arguments."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in STEPS:
            step = getattr(module, name)

            def stand_in(*given: Any, name: str = name, step: Step = step, **options: Any) -> Any:
                if name == "open" and "w" not in given[1]:
                    return step(*given, **options)
                return take(name, partial(step, **options), given)

            patch.setattr(module, name, stand_in)
        yield


class Fault:
    """Counts steps, and lets `happen` take the place of one of them."""

    def __init__(self, at: int, happen: Callable[[str, Step, tuple[Any, ...]], Any]) -> None:
        self.steps, self.name = 0, ""
        self._at, self._happen = at, happen

    def __call__(self, name: str, step: Step, given: tuple[Any, ...]) -> Any:
        self.steps += 1
        if self.steps != self._at:
            return step(*given)
        self.name = name
        return self._happen(name, step, given)


KILLED = 77


def die(name: str, step: Step, given: tuple[Any, ...]) -> None:
    """A kill before a step, or in the midst of writing."""
    if name == "writev":
        write_half(*given)
    os._exit(KILLED)


def fail_before(code: int, name: str, step: Step, given: tuple[Any, ...]) -> None:
    """A step that fails and does nothing, or writes a part."""
    if name == "writev":
        write_half(*given)
    raise OSError(code, os.strerror(code))


def fail_after(code: int, name: str, step: Step, given: tuple[Any, ...]) -> None:
    """A step that fails and was done all the same, as a network file system may have it."""
    done = step(*given)
    if name == "open":
        done.close()
    raise OSError(code, os.strerror(code))


def write_half(descriptor: int, pieces: list[memoryview]) -> None:
    whole = b"".join(pieces)
    os.write(descriptor, whole[: len(whole) // 2])


@pytest.mark.slow
def test_killed_at_every_step(tmp_path, earlier, undisturbed):
    path = tmp_path / "store"
    outcomes = []
    for number in count(1):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with watched(Fault(number, die)):
                    write_store(path, earlier)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcomes.append(require_finished(path, earlier, undisturbed))
        if code == 0:
            break
        assert code == KILLED
    print(f"\nkilled at {number - 1} steps: {sum(outcomes)} stores were complete, the others none")
    assert number > 100
    assert outcomes == sorted(outcomes), "once complete, a store stays so"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "fail"),
    [(errno.ENOSPC, fail_before), (errno.EIO, fail_before), (errno.EIO, fail_after)],
    ids=["no space", "bad disk", "done but bad"],
)
def test_a_fault_at_every_step(tmp_path, earlier, undisturbed, code, fail):
    path = tmp_path / "store"
    for number in count(1):
        fault = Fault(number, partial(fail, code))
        try:
            with watched(fault):
                write_store(path, earlier)
        except StoreError as error:
            assert code == errno.EIO
            assert "check the disk and run the same command again" in str(error)
        except StorageFullError as error:
            assert code == errno.ENOSPC
            assert str(error).startswith("no space left to ")
        else:
            # A folder that is there after all is good, and so is a file that was gone before.
            assert fault.name in ("", "mkdir", "unlink")
        if path.exists() and fault.name != "unlink":
            assert [name for name in files_of(path) if name.endswith(".partial")] == []
        require_finished(path, earlier, undisturbed)
        if not fault.name:
            break
    print(f"\n{os.strerror(code)}, at each of {number - 1} steps")
    assert number > 100


class PowerLossError(BaseException):
    """The machine stops: no clean-up runs."""


class Disk:
    """Loses what was not flushed when the power fails at one of the steps.

    The content of a file is safe once the file is flushed, its name once its folder is. Of the
    changes to each folder since then the first few may be safe too, as many as `drawn` says of
    how many there are.
    """

    def __init__(self, kept: Path, at: int, drawn: Callable[[int], int]) -> None:
        self.steps = 0
        self.is_off = False
        self._kept, self._at, self._drawn = kept, at, drawn
        self._link = os.link
        self._undo: dict[str, list[Callable[[], Any]]] = {}
        self._unflushed: set[int] = set()
        kept.mkdir()

    def __call__(self, name: str, step: Step, given: tuple[Any, ...]) -> Any:
        self.steps += 1
        if self.steps == self._at:
            self.is_off = True
        if self.is_off:
            raise PowerLossError
        return getattr(self, name)(step, *given)

    def lose(self, store: Path) -> None:
        """Leave what is left after the power failure."""
        for changes in self._undo.values():
            for undo in reversed(changes[self._drawn(len(changes)) :]):
                # Its folder may be lost already.
                with suppress(FileNotFoundError):
                    undo()
        for file in store.rglob("*"):
            if file.is_file() and file.stat().st_ino in self._unflushed:
                os.truncate(file, file.stat().st_size // 2)
        shutil.rmtree(self._kept)

    def mkdir(self, step: Step, path: Path, *given: Any) -> None:
        step(path, *given)
        self._changed(path, lambda: shutil.rmtree(path))

    def open(self, step: Step, path: Path, *given: Any) -> Any:
        undo = self._keep(path)
        file = step(path, *given)
        self._unflushed.add(os.fstat(file.fileno()).st_ino)
        self._changed(path, undo)
        return file

    def writev(self, step: Step, descriptor: int, pieces: Any) -> int:
        self._unflushed.add(os.fstat(descriptor).st_ino)
        return int(step(descriptor, pieces))

    def fsync(self, step: Step, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._undo.pop(str(Path(f"/proc/self/fd/{descriptor}").readlink()), None)
        self._unflushed.discard(found.st_ino)

    def replace(self, step: Step, source: Path, target: Path) -> None:
        bring_back = self._keep(target)
        step(source, target)

        def undo() -> None:
            target.replace(source)
            bring_back()

        self._changed(target, undo)

    def link(self, step: Step, source: Path, target: Path) -> None:
        step(source, target)
        self._changed(target, target.unlink)

    def unlink(self, step: Step, path: Path) -> None:
        undo = self._keep(path)
        step(path)
        self._changed(path, undo)

    def _changed(self, path: Path, undo: Callable[[], Any]) -> None:
        self._undo.setdefault(str(path.parent), []).append(undo)

    def _keep(self, path: Path) -> Callable[[], Any]:
        """Keep what a name stands for; calling the result brings it back."""
        if not path.exists():
            return lambda: path.unlink(missing_ok=True)
        kept = self._kept / str(self.steps)
        self._link(path, kept)
        return lambda: kept.replace(path)


@pytest.mark.slow
@pytest.mark.parametrize("safe", ["nothing unflushed", "some of it"])
def test_a_power_failure_at_every_step(tmp_path, earlier, undisturbed, safe):
    path = tmp_path / "store"
    schedule = random.Random(0)
    outcomes = []
    for number in count(1):
        drawn = (lambda n: 0) if safe == "nothing unflushed" else (lambda n: schedule.randint(0, n))
        disk = Disk(tmp_path / "kept", number, drawn)
        with suppress(PowerLossError), watched(disk):
            write_store(path, earlier)
        disk.lose(path)
        outcomes.append(require_finished(path, earlier, undisturbed))
        if not disk.is_off:
            break
    print(f"\npower lost at {number - 1} steps, {safe}: {sum(outcomes)} stores were complete")
    assert number > 100
    assert outcomes[-1], "what was finished is on the disk"


@pytest.mark.slow
def test_removal_stopped_at_every_step(tmp_path, earlier, undisturbed):
    path = tmp_path / "store"
    for number in count(1):
        write_store(path, earlier)
        steps = 0

        def take(name: str, step: Step, given: tuple[Any, ...], last: int = number) -> Any:
            nonlocal steps
            steps += 1
            if steps >= last:
                raise PowerLossError
            return step(*given)

        with suppress(PowerLossError), watched(take):
            delete_store(storage_at(path))
        if not path.exists():
            break
        # Before the first step it is whole, after it, it is no store to a reader.
        assert require_finished(path, earlier, undisturbed) == (number == 1)
    assert number > 30
    write_store(tmp_path / "again", earlier)
    assert files_of(tmp_path / "again") == undisturbed, "what shared files is whole"


def overwrite_store(path: Path) -> None:
    """Replace the store at `path` by one whose values are larger by one."""
    settle(str(path))
    write_pending(begin_store(Path(beside(str(path), OVERWRITE))), more=1)
    settle(str(path))


def added(path: Path) -> int:
    """By how much the values of a store are larger: all of it is of one generation."""
    store = Store(path)
    found = set()
    for name, expected in VALUES.items():
        if name == "masks":
            continue  # of two values
        read = store.read_array(name, np.arange(len(expected))).astype(int)
        found.update(np.unique(read - np.asarray(list(expected.values())).astype(int)).tolist())
    assert len(found) == 1
    return int(found.pop())


@pytest.mark.slow
def test_overwrite_killed_at_every_step(tmp_path):
    """The former store stays whole until the new one is, and none but these two is ever read."""
    former, path = tmp_path / "former", tmp_path / "place/store"
    write_pending(begin_store(former))
    outcomes = []
    for number in count(1):
        shutil.copytree(former, path)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with watched(Fault(number, die)):
                    overwrite_store(path)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED)
        try:
            outcomes.append(added(path))
        except StoreError as error:
            assert "is being replaced, " in str(error)
            assert "run the same `declip-pipe extract` command" in str(error)
            outcomes.append(1)
        was_whole = outcomes[-1] == 1 or replacement_of(str(path)) is not None
        # The same command without overwrite: it goes on where all was there, and else nothing.
        settle(str(path))
        assert added(path) == int(was_whole)
        overwrite_store(path)
        assert added(path) == 1
        assert [place.name for place in path.parent.iterdir()] == ["store"]
        shutil.rmtree(path)
        if code == 0:
            break
    assert number > 100
    assert outcomes == sorted(outcomes), "once replaced, a store stays so"
    assert set(outcomes) == {0, 1}


def test_a_replacement_removed_by_hand_leaves_the_former_store(tmp_path):
    path = tmp_path / "store"
    write_pending(begin_store(path))
    path.rename(beside(str(path), FORMER))
    settle(str(path))
    assert added(path) == 0
