"""What goes wrong in the middle of an extraction: one line, and the same command finishes it.

The program runs in processes of its own, forked from one that has imported everything. What is
to go wrong does so once the first shard is in the ledger.
"""

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.handmade_store import files_of
from support.made_dataset import write_dataset

from declip_pipeline.errors import StoreError
from declip_pipeline.store.reader import Store

ROWS_PER_SHARD = 2
PICTURES = 24
GIVE_UP_AFTER = 50
# What a user waits after Ctrl-C, at most.
PATIENCE_SECONDS = 5
INTERRUPTED = "interrupted; run the same command again to finish its work"
# All that the command imports, for the one process that the others are forked from.
IMPORTED = [
    "numpy",
    "pytest",
    "PIL.Image",
    "torch",
    "zarr",
    "open_clip",
    "rich.progress",
    "stages.app",
    "declip_pipeline.backbones.from_open_clip",
    "declip_pipeline.datasets.opening",
    "declip_pipeline.extraction.estimate",
    "declip_pipeline.extraction.extract",
]
PROCESSES = multiprocessing.get_context("forkserver")


def first_shard_is_written(cache: Path) -> bool:
    return next(cache.glob("*/*/*/ledger/*.json"), None) is not None


@dataclass(frozen=True)
class Places:
    """Where a process of the program has its things."""

    dataset: Path
    cache: Path
    records: Path

    @property
    def obstacle(self) -> Path:
        """A file that is there once the process has met what it is to meet."""
        return self.records / "obstacle"


def trouble(places: Places) -> bool:
    """Whether it is time for what is to go wrong; leaves a note that it has."""
    if not first_shard_is_written(places.cache):
        return False
    places.obstacle.touch()
    return True


def no_obstacle(places: Places) -> None:
    pass


def slow_decoding(places: Places) -> None:
    from declip_pipeline.extraction import sample_reading

    decode_image = sample_reading.decode_image

    def slow(*arguments, **options):
        # A little at any time, so that an extraction is not over before something is noticed.
        time.sleep(GIVE_UP_AFTER if trouble(places) else 0.01)
        return decode_image(*arguments, **options)

    sample_reading.decode_image = slow


def unhurried_decoding(places: Places) -> None:
    from declip_pipeline.extraction import sample_reading

    decode_image = sample_reading.decode_image

    def slow(*arguments, **options):
        time.sleep(0.05)
        return decode_image(*arguments, **options)

    sample_reading.decode_image = slow


def slow_disk(places: Places) -> None:
    def fsync(descriptor: int) -> None:
        if trouble(places):
            time.sleep(GIVE_UP_AFTER)

    os.fsync = fsync


def slow_backbone(places: Places) -> None:
    """One step in machine code that takes for ever, so that Python answers no signal meanwhile."""
    from declip_pipeline.backbones import registry

    open_backbone = registry.open_backbone

    def open_slow(*arguments, **options):
        backbone = open_backbone(*arguments, **options)
        forward = backbone.features

        def slow(*images, **options):
            if trouble(places):
                hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
            return forward(*images, **options)

        backbone.features = slow
        return backbone

    registry.open_backbone = open_slow


def lost_pictures(places: Places) -> None:
    """The network file system with the images has gone, and come back as another."""
    unhurried_decoding(places)
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.is_relative_to(places.dataset) and trouble(places):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_bytes(path)

    Path.read_bytes = read


def lost_store(places: Places) -> None:
    """The disk with the store is broken."""
    writev = os.writev

    def write(descriptor: int, buffers: list[memoryview]) -> int:
        if trouble(places):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return writev(descriptor, buffers)

    os.writev = write


def be_the_program(
    places: Places, arguments: tuple[str, ...], obstacle: Callable[[Places], None]
) -> None:
    signal.alarm(GIVE_UP_AFTER)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(places.records / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import torch

    from declip_pipeline.store import format as fmt
    from stages.app import main

    torch.set_num_threads(1)
    fmt.ROWS_PER_SHARD = ROWS_PER_SHARD
    # What was written outlives a process, flushed or not: the disk need not be waited for.
    os.fsync = lambda descriptor: None
    obstacle(places)
    sys.argv = ["declip-pipe", *arguments]
    main()


@dataclass(frozen=True)
class Ending:
    """How a process ended, and how many seconds after it was sent a signal."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def line(self) -> str:
        """The one line on stderr that the program ended with."""
        lines = [line for line in self.err.splitlines() if line.startswith("declip-pipe: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        return lines[0].removeprefix("declip-pipe: ")


class Extraction:
    """One command, in as many processes, one after another, as it takes."""

    def __init__(self, dataset: Path, weights: Path, folder: Path) -> None:
        (folder / "records").mkdir(parents=True)
        self.places = Places(dataset, folder / "cache", folder / "records")
        options = ("--arch", "CLIP:from-file", "--weights", weights, "--batch-size", 2)
        self._arguments = ("extract", dataset, *options, "--cache", self.places.cache)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._sent = 0.0

    def start(self, obstacle: Callable[[Places], None]) -> "Extraction":
        self._process = PROCESSES.Process(
            target=be_the_program, args=(self.places, tuple(map(str, self._arguments)), obstacle)
        )
        self._process.start()
        return self

    def wait_for(self, moment: Callable[[], bool]) -> None:
        deadline = time.monotonic() + GIVE_UP_AFTER
        while not moment():
            assert self._process is not None
            assert self._process.is_alive(), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_for_the_first_shard(self) -> None:
        self.wait_for(lambda: first_shard_is_written(self.places.cache))

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None and self._process.pid is not None
        os.kill(self._process.pid, number)
        self._sent = time.monotonic()

    def end(self) -> Ending:
        assert self._process is not None
        wait([self._process.sentinel], GIVE_UP_AFTER)
        seconds = time.monotonic() - self._sent
        self.stop()
        out, err = ((self.places.records / name).read_text() for name in ("out", "err"))
        return Ending(self._process.exitcode, out, err, seconds)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.join()

    def require_interrupted(self) -> None:
        """What is there is no store to a reader."""
        [folder] = self.places.cache.glob("*/*/*")
        with pytest.raises(StoreError, match="is incomplete"):
            Store(folder)

    def require_finished(self, expected: dict[str, bytes]) -> None:
        """The same command finishes the store, and it is the undisturbed one, byte for byte."""
        ending = self.start(no_obstacle).end()
        assert ending.code == 0, ending.err
        found = files_of(self.places.cache)
        assert sorted(found) == sorted(expected)
        assert [name for name in expected if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A dataset that no test changes for good."""
    counts = {"train": PICTURES - 2, "valid": 1, "test": 1}
    return write_dataset(tmp_path_factory.mktemp("images") / "noisy", counts)


@pytest.fixture(scope="module", autouse=True)
def started_early() -> None:
    """The imports take seconds; the first test does not need them."""
    PROCESSES.set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


@pytest.fixture(scope="module")
def begin(golden, pictures, tmp_path_factory) -> Iterator[Callable[..., Extraction]]:
    """Makes an extraction into a cache of its own, and starts it with an obstacle."""
    started: list[Extraction] = []

    def start(obstacle: Callable[[Places], None]) -> Extraction:
        folder = tmp_path_factory.mktemp("extraction")
        extraction = Extraction(pictures, golden / "tiny_vit_openai.pt", folder)
        started.append(extraction)
        return extraction.start(obstacle)

    yield start
    for extraction in started:
        extraction.stop()


@pytest.fixture(scope="module")
def undisturbed(begin) -> dict[str, bytes]:
    """All files under a cache that has one undisturbed store."""
    extraction = begin(no_obstacle)
    ending = extraction.end()
    assert ending.code == 0, ending.err
    return files_of(extraction.places.cache)


@pytest.mark.slow
def test_the_900th_of_1000_pictures_is_corrupt(program, tiny_arch, tmp_path, monkeypatch):
    dataset = tmp_path / "thousand"
    for kind in ("images", "masks"):
        (dataset / kind).mkdir(parents=True)
    mask = np.zeros((16, 16), np.uint8)
    mask[:5, :8] = 255
    # Each fifty times, one after another: the same image is computed once.
    noise = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
    for number in range(1, 1001):
        Image.fromarray(noise[number // 50]).save(dataset / "images" / f"{number:04d}.png")
        Image.fromarray(mask).save(dataset / "masks" / f"{number:04d}.png")
    corrupt = dataset / "images" / "0900.png"
    corrupt.write_bytes(corrupt.read_bytes()[:-100])
    # Not what this is about, and slow.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    command = ("extract", dataset, *tiny_arch, "--layers", "layer0", "--cache", tmp_path / "cache")
    failed = "failed: images/0900.png: is truncated or damaged (image file is truncated)"
    sum_up = (
        "declip-pipe: 1 of 1000 images could not be used, --max-failures is 0; "
        "the store holds the others"
    )

    outcome = program(*command)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-2:] == [failed, sum_up]
    store = Store(Path(outcome.last_line))
    assert len(store.samples) == 1000
    assert store.failures == {899: failed.removeprefix("failed: images/0900.png: ")}
    others = np.asarray([row for row in range(1000) if row != 899])
    features = np.asarray(store.read_layer("layer0", others).decoded())
    changes = np.flatnonzero((features[1:] != features[:-1]).any(axis=(1, 2))) + 1
    np.testing.assert_array_equal(others[changes] + 1, [*range(50, 900, 50), 901, 950, 1000])
    assert (store.read_array("targets", others).max(axis=(1, 2)) == 255).all()
    for read in (partial(store.read_layer, "layer0"), partial(store.read_array, "targets")):
        with pytest.raises(StoreError, match="899"):
            read(np.asarray([898, 899]))

    again = program(*command)
    assert (again.code, again.out) == (1, outcome.out)
    complete = "the store is complete already, nothing to do (--overwrite extracts it again)"
    assert again.err.splitlines()[-3:] == [complete, failed, sum_up]
    tolerant = program(*command, "--max-failures", 1)
    assert (tolerant.code, tolerant.out) == (0, outcome.out)
    assert tolerant.err.splitlines()[-2:] == [complete, failed]


@pytest.mark.slow
def test_the_pictures_disappear(begin, pictures, undisturbed):
    extraction = begin(unhurried_decoding)
    extraction.wait_for_the_first_shard()
    elsewhere = pictures.rename(pictures.with_name("elsewhere"))
    ending = extraction.end()
    try:
        assert ending.code == 1
        path, _, rest = ending.line.partition(" cannot be read any more ")
        assert (elsewhere / Path(path).relative_to(pictures)).is_file()
        assert rest == (
            "(No such file or directory); bring it back and run the same command again, "
            "it goes on where it stopped"
        )
        extraction.require_interrupted()
        still_gone = extraction.start(no_obstacle).end()
        assert still_gone.code == 2
        assert still_gone.line.startswith(f"{pictures} does not exist")
    finally:
        elsewhere.rename(pictures)
    extraction.require_finished(undisturbed)


@pytest.mark.slow
def test_the_pictures_change(begin, pictures, undisturbed):
    extraction = begin(unhurried_decoding)
    extraction.wait_for_the_first_shard()
    contents = {file: file.read_bytes() for file in (pictures / "images").rglob("*.png")}
    try:
        for file, content in contents.items():
            replacement = file.with_suffix(".new")
            replacement.write_bytes(content + b"behind the image's end")
            replacement.replace(file)
        ending = extraction.end()
        assert ending.code == 1
        path, _, rest = ending.line.partition(" has changed ")
        assert Path(path) in contents
        assert rest == (
            "since its dataset was first read; bring the former file back, or run "
            "`declip-pipe extract` on the dataset as it is now"
        )
        extraction.require_interrupted()
        # What the line says to do makes the store of the images as they are now.
        now = extraction.start(no_obstacle).end()
        assert now.code == 0, now.err
        assert len(Store(Path(now.out.strip())).samples) == PICTURES
        shutil.rmtree(now.out.strip())
    finally:
        for file, content in contents.items():
            file.write_bytes(content)
    extraction.require_finished(undisturbed)


@pytest.mark.slow
def test_the_pictures_cannot_be_read(begin, undisturbed):
    extraction = begin(lost_pictures)
    ending = extraction.end()
    assert ending.code == 1
    path, _, rest = ending.line.partition(" cannot be read any more ")
    assert Path(path).is_file()
    assert rest == (
        f"({os.strerror(errno.ESTALE)}); bring it back and run the same command again, "
        "it goes on where it stopped"
    )
    extraction.require_interrupted()
    extraction.require_finished(undisturbed)


@pytest.mark.slow
def test_the_store_cannot_be_written(begin, undisturbed):
    extraction = begin(lost_store)
    ending = extraction.end()
    assert ending.code == 1
    assert ending.line.startswith(f"cannot write {extraction.places.cache}/")
    assert ending.line.endswith(
        f": {os.strerror(errno.EIO)}; check the disk and run the same command again"
    )
    extraction.require_interrupted()
    extraction.require_finished(undisturbed)


@pytest.mark.slow
def test_the_store_disappears(begin, undisturbed):
    extraction = begin(unhurried_decoding)
    extraction.wait_for_the_first_shard()
    cache = extraction.places.cache
    elsewhere = cache.rename(cache.with_name("elsewhere"))
    ending = extraction.end()
    assert ending.code == 1
    assert f"{cache}/" in ending.line
    assert ending.line.endswith("; check the disk and run the same command again")
    # A shard that was just being written may have been put there.
    shutil.rmtree(cache, ignore_errors=True)
    elsewhere.rename(cache)
    extraction.require_interrupted()
    extraction.require_finished(undisturbed)


SLOW = [
    (slow_decoding, signal.SIGINT, 130),
    (slow_disk, signal.SIGTERM, 143),
    (slow_backbone, signal.SIGINT, 130),
    (slow_backbone, signal.SIGTERM, 143),
]


@pytest.fixture(scope="module")
def interrupted(begin) -> list[tuple[Extraction, Ending]]:
    """The extractions of `SLOW`, all interrupted at the same time."""
    running = [begin(obstacle) for obstacle, _, _ in SLOW]
    for extraction in running:
        extraction.wait_for(extraction.places.obstacle.exists)
    for extraction, (_, number, _) in zip(running, SLOW, strict=True):
        extraction.send(number)
    return [(extraction, extraction.end()) for extraction in running]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(SLOW)), ids=[case[0].__name__ for case in SLOW])
def test_an_interruption_does_not_wait_for_what_is_slow(interrupted, undisturbed, case):
    extraction, ending = interrupted[case]
    assert ending.code == SLOW[case][2], ending.err
    assert ending.line == INTERRUPTED
    assert ending.seconds < PATIENCE_SECONDS
    extraction.require_interrupted()
    extraction.require_finished(undisturbed)
