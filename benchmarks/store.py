"""The store against plain files, memmap, h5py, zarr-python and TensorStore.

python benchmarks/store.py [--images 512] [--folder DIR] [--breakdown]

ViT-L/14 shapes: (257, 1024) float16, half a megabyte an image. Contestants take turns, so that a
noisy machine is noisy to all of them; of all turns of a contestant, those are kept in which other
programs took the least processor time, and every figure is the median of at least five of them.
"others" is how many processors the other programs took meanwhile, "CPU" is what a contestant took
itself: of a machine that is never quiet, it says more than the rate. "Cold" drops the files from
the page cache first, as for a store larger than memory. `--breakdown` measures single steps.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import h5py
import numpy as np
import tensorstore as ts
import zarr
from reporting import report

from declip_pipeline.datasets.sample import FAKE, Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.extraction.shard_filling import SHARDS_BEING_WRITTEN
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.feed import READ_AHEAD
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter

SHAPE = FeatureShape(1024, 16, 16, 1)
ROW = SHAPE.array_shape
LAYER = "layer20"
BATCH = 32
REPEATS = 5
TURNS_FOR_EACH_KEPT = 4
PICTURE = 224
WRITTEN = range(8)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    arguments.add_argument("--breakdown", action="store_true", help="cost of each check and copy")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        if options.breakdown:
            from store_breakdown import breakdown

            breakdown(root, ROW)
            return
        rows = np.random.default_rng(0).standard_normal((64, *ROW)).astype(np.float16)
        written, writing = measure_writing(root, rows, options.images)
        readers = open_readers(root, rows, options.images)
        random = measure_random(readers, options.images)
        settings = {"store": readers["store"], **tensorstore_settings(root)}
        tuned = measure_random(settings, options.images)
        read, warm, cold = measure_sequential(root, options.images)
    rows_of = [
        *table("write, MB/s", written, writing, {"plain files, same fsyncs": 0.8}),
        *table(
            "random batches of 32, images/s",
            BATCH,
            random,
            {"zarr-python oindex": 10, "h5py one by one": 1, "numpy memmap": 0.4},
        ),
        *table("TensorStore's settings, images/s", BATCH, tuned, {}),
        *table("sequential, warm, MB/s", read, warm, {"cat": 0.7}),
        *table("sequential, cold, MB/s", read, cold, {"cat": 0.7}),
    ]
    megabytes = int(np.prod(ROW)) * 2 / 1e6
    about = {"images": options.images, "megabytes_per_image": megabytes, "repeats": REPEATS}
    report("store", rows_of, about)


@dataclass(frozen=True)
class Turn:
    """One turn of a contestant, or the medians of several: seconds, and processors in use."""

    seconds: float
    cpu: float
    others: float

    @classmethod
    def timed(cls, run: Callable[[], object]) -> "Turn":
        """Call `run` once, with its threads and the processes that it waits for."""
        busy, own, started = _busy_seconds(), _own_seconds(), time.perf_counter()
        run()
        seconds, cpu = time.perf_counter() - started, _own_seconds() - own
        return cls(seconds, cpu, max(0.0, _busy_seconds() - busy - cpu) / seconds)

    @classmethod
    def quietest(cls, turns: Sequence["Turn"], kept: int) -> "Turn":
        """Medians of the turns in which other programs took the least processor time."""
        quiet = sorted(turns, key=lambda turn: turn.others)[:kept]
        return cls(*(median(getattr(t, name) for t in quiet) for name in cls.__annotations__))


def _own_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _busy_seconds() -> float:
    """Processor time that all programs of the machine took since it started."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _wait, *interrupts = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def table(
    measure: str, amount: float, turns: dict[str, Turn], goals: dict[str, float]
) -> list[dict]:
    """Rows of the report: each contestant's rate, and how many times it the store reaches.

    `amount` is how many of the measure's units a turn moves.
    """
    return [
        {
            "measure": measure,
            "contestant": name,
            "rate": amount / turn.seconds,
            "store is": f"{turn.seconds / turns['store'].seconds:.2f}x",
            "goal": f"{goals[name]}x" if name in goals else "",
            "CPU ms": 1e3 * turn.cpu,
            "others": turn.others,
        }
        for name, turn in turns.items()
    ]


def in_turns(
    contestants: dict[str, Callable[[], object]],
    repeats: int = REPEATS,
    before: Callable[[], None] = lambda: None,
    turns_for_each_kept: int = TURNS_FOR_EACH_KEPT,
) -> dict[str, Turn]:
    """Medians of each contestant over its `repeats` quietest turns."""
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for _ in range(repeats * turns_for_each_kept):
        for name, run in contestants.items():
            before()
            turns[name].append(Turn.timed(run))
    return {name: Turn.quietest(of, repeats) for name, of in turns.items()}


def new_writer(
    place: Path, images: int, layers: Sequence[str] = (LAYER,), valid: int = 0
) -> StoreWriter:
    """A new store of images that are not there; the last `valid` of them are of that split."""
    samples = Samples.from_rows(
        Sample(
            id=f"{row:06d}",
            image=f"{row:06d}.png",
            mask=f"{row:06d}.png",
            split="train" if row < images - valid else "valid",
            generator="made",
            label=FAKE,
            source="made",
            height=PICTURE,
            width=PICTURE,
            image_sha256=hashlib.sha256(str(row).encode()).hexdigest(),
            mask_sha256=hashlib.sha256(b"mask").hexdigest(),
        )
        for row in range(images)
    )
    identity = StoreIdentity(
        backbone="CLIP:ViT-L/14",
        weights_sha256="0" * 64,
        preprocessing={},
        view="clean",
        layers=tuple(layers),
        dtype="float16",
        manifest_sha256=manifest_sha256(True, samples),
        format_version=fmt.FORMAT_VERSION,
    )
    return StoreWriter(
        str(place),
        identity=identity,
        layers=dict.fromkeys(layers, SHAPE),
        dataset="made",
        provenance={},
        samples=samples,
        fake_is_white=True,
    )


def fill(writer: StoreWriter, rows: np.ndarray, shards: Sequence[int]) -> None:
    mask = np.zeros((PICTURE, PICTURE), bool)
    mask[50:120, 60:160] = True
    target = np.zeros((fmt.TARGET_SIZE, fmt.TARGET_SIZE), np.uint8)
    target[60:130, 70:180] = 255
    thumbnail = np.zeros((fmt.THUMBNAIL_SIZE, fmt.THUMBNAIL_SIZE, 3), np.uint8)

    def write(shard: int) -> None:
        places = writer.shard_rows(shard)
        count = len(places)
        arrays = {
            **{fmt.layer_key(layer): list(rows[:count]) for layer in writer.header.layers},
            "targets": [target] * count,
            "thumbnails": [thumbnail] * count,
            "masks": [mask] * count,
        }
        writer.write_shard(shard, list(places), arrays, {})

    # As extraction does: one shard is encoded while another waits for the disk.
    with ThreadPoolExecutor(SHARDS_BEING_WRITTEN) as threads:
        list(threads.map(write, shards))


class NoHash:
    """Stands in for a hash that costs nothing."""

    def update(self, piece: object) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


def measure_writing(root: Path, rows: np.ndarray, images: int) -> tuple[float, dict[str, Turn]]:
    """Some shards a turn, through the writer and as plain files of the same bytes, both durable.

    Returns the megabytes of a turn, and the turns.
    """
    writer = new_writer(root / "store", images)
    fill(writer, rows, writer.pending_shards())
    writer.finish()
    shards = WRITTEN[: writer.header.shards]
    files = {
        key: (root / "store" / key).read_bytes()
        for shard in shards
        for key in (
            *(array.shard_key(shard) for array in writer.arrays.values()),
            fmt.ledger_key(shard),
        )
    }
    written = new_writer(root / "written", 64 * len(shards))

    def through_the_writer() -> None:
        fill(written, rows, shards)

    def plainly() -> None:
        for key, data in files.items():
            place = root / "plain" / key
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_suffix(".partial")
            with partial.open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
            partial.rename(place)
            descriptor = os.open(place.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def clean() -> None:
        for folder in ("written", "plain"):
            for key in files:
                (root / folder / key).unlink(missing_ok=True)

    def without_checks() -> None:
        """Measure the cost of BLAKE3, crc32c and the check for values that are not finite."""
        with (
            patch("declip_pipeline.store.shards.blake3", NoHash),
            patch("declip_pipeline.store.writer.is_finite", lambda array, value: True),
            patch("declip_pipeline.store.shards._checksum", lambda content: b"0000"),
        ):
            through_the_writer()

    def flushed_at_the_end() -> None:
        """Leave it to the flush of each file to begin with its bytes."""
        with patch("declip_pipeline.store.write_back.begin_write_back", lambda *part: None):
            through_the_writer()

    def four_files_at_once() -> None:
        with patch("declip_pipeline.store.writer.WRITING_THREADS", 4):
            through_the_writer()

    # A store's other records are written once for thousands of shards; they are not compared.
    contestants = {
        "store": through_the_writer,
        "store without checks": without_checks,
        "store flushed at the end": flushed_at_the_end,
        "store, four files at once": four_files_at_once,
        "plain files, same fsyncs": plainly,
    }
    for run in contestants.values():
        run()
    turns = in_turns(contestants, before=clean)
    return sum(map(len, files.values())) / 1e6, turns


def open_readers(root: Path, rows: np.ndarray, images: int) -> dict[str, Callable]:
    whole = root / "whole.npy"
    memmap = np.lib.format.open_memmap(whole, "w+", np.float16, (images, *ROW))
    with h5py.File(root / "file.h5", "w") as file:
        h5 = file.create_dataset(
            "layer", (images, *ROW), np.float16, chunks=(1, *ROW), fletcher32=True
        )
        for start in range(0, images, 64):
            memmap[start : start + 64] = rows[: images - start]
            h5[start : start + 64] = rows[: images - start]
    memmap.flush()
    store = Store(root / "store")
    array = zarr.open_group(root / "store", mode="r")[f"layers/{LAYER}"]
    opened = h5py.File(root / "file.h5", "r")["layer"]
    mapped = np.load(whole, mmap_mode="r")
    return {
        "store": lambda chosen: store.read_layer(LAYER, chosen),
        "TensorStore": tensorstore_reader(root, {}),
        "zarr-python oindex": lambda chosen: array.oindex[chosen],
        "zarr-python one by one": lambda chosen: np.stack([array[row] for row in chosen.tolist()]),
        "h5py one by one": lambda chosen: np.stack([opened[row] for row in chosen.tolist()]),
        "numpy memmap": lambda chosen: mapped[chosen],
    }


def tensorstore_reader(root: Path, context: dict) -> Callable[[np.ndarray], object]:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{root}/store/layers/{LAYER}/"},
        "fill_missing_data_reads": False,
    }
    array = ts.open(spec, open=True, context=ts.Context(context)).result()
    return lambda chosen: array[chosen].read().result()


def tensorstore_settings(root: Path) -> dict[str, Callable]:
    """Measure TensorStore with its own settings."""
    return {
        "default": tensorstore_reader(root, {}),
        "cache pool of 100 MB": tensorstore_reader(
            root, {"cache_pool": {"total_bytes_limit": 100_000_000}}
        ),
        "2 copies at once": tensorstore_reader(root, {"data_copy_concurrency": {"limit": 2}}),
        "32 reads at once": tensorstore_reader(root, {"file_io_concurrency": {"limit": 32}}),
        "memory-mapped": tensorstore_reader(root, {"file_io_mode": {"mode": "memmap"}}),
        "direct I/O": tensorstore_reader(root, {"file_io_mode": {"mode": "direct"}}),
    }


def measure_random(readers: dict[str, Callable], images: int) -> dict[str, Turn]:
    """Random batches, new ones in each turn: no cache may know them."""
    random = np.random.default_rng(1)
    for read in readers.values():
        read(np.arange(images))  # the page cache and the indexes
    turns = {
        name: partial(lambda read: read(random.permutation(images)[:BATCH]), read)
        for name, read in readers.items()
    }
    # Turns of some milliseconds: the kernel's count of what others took is coarser than that.
    return in_turns(turns, repeats=5 * REPEATS, turns_for_each_kept=1)


def measure_sequential(root: Path, images: int) -> tuple[float, dict[str, Turn], dict[str, Turn]]:
    """A whole layer in order, against `cat` of its files into nothing.

    Returns the megabytes of a turn, the turns with warm files, and those with cold ones.
    """
    files = sorted((root / "store" / "layers" / LAYER).glob("c.*"))
    store = Store(root / "store")

    def read() -> None:
        """Batch by batch with two under way, as a training is fed."""
        under_way: deque[Callable[[], object]] = deque()
        for start in range(0, images, BATCH):
            rows = np.arange(start, min(start + BATCH, images))
            under_way.append(store.begin_reading_layer(LAYER, rows))
            if len(under_way) > READ_AHEAD:
                under_way.popleft()()
        while under_way:
            under_way.popleft()()

    def without_checks() -> None:
        """Measure what is left without the checksums: copies from the page cache."""
        with patch("declip_pipeline.store.rows.differs", lambda content, checksum: False):
            read()

    def longer_runs() -> None:
        with patch("declip_pipeline.store.rows.RUN_BYTES", 8 * 2**20):
            read()

    def cat() -> None:
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)

    def drop() -> None:
        for file in files:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    size = sum(file.stat().st_size for file in files) / 1e6
    contestants = {
        "store": read,
        "store without checks": without_checks,
        "store, runs of 8 MB": longer_runs,
        "cat": cat,
    }
    return size, in_turns(contestants), in_turns(contestants, before=drop)


if __name__ == "__main__":
    main()
