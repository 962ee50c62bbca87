"""The store against plain files, memmap, h5py, zarr-python and TensorStore.

python benchmarks/store.py [--images 512] [--folder DIR]

ViT-L/14 shapes: (257, 1024) float16, half a megabyte an image. Every figure is a median of at least
five, and contestants take turns, so that a noisy machine is noisy to all of them. "Cold" drops the
files from the page cache first, as for a store larger than memory.
"""

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import h5py
import numpy as np
import tensorstore as ts
import zarr
from reporting import report

from declip_pipeline.extraction.shard_filling import SHARDS_BEING_WRITTEN
from declip_pipeline.features import FeatureShape
from declip_pipeline.feeding.column import READ_AHEAD
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter

SHAPE = FeatureShape(1024, 16, 16, 1)
ROW = SHAPE.array_shape
LAYER = "layer20"
BATCH = 32
REPEATS = 5
PICTURE = 224
WRITTEN = range(8)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        rows = np.random.default_rng(0).standard_normal((64, *ROW)).astype(np.float16)
        writing = measure_writing(root, rows, options.images)
        readers = open_readers(root, rows, options.images)
        random = measure_random(readers, options.images)
        tuned = measure_random(tensorstore_settings(root), options.images)
        sequential = measure_sequential(root, options.images)
    megabytes = int(np.prod(ROW)) * 2 / 1e6
    rows_of = [
        *table("write, MB/s", writing, "store", {"plain files, same fsyncs": 0.8}),
        *table(
            "random batches of 32, images/s",
            random,
            "store",
            {"zarr-python oindex": 10, "h5py one by one": 1, "numpy memmap": 0.4},
        ),
        *table("TensorStore's settings, images/s", tuned | {"store": random["store"]}, "store", {}),
        *table("sequential, warm, MB/s", sequential["warm"], "store", {"cat": 0.7}),
        *table("sequential, cold, MB/s", sequential["cold"], "store", {"cat": 0.7}),
    ]
    settings = {"images": options.images, "megabytes_per_image": megabytes, "repeats": REPEATS}
    report("store", rows_of, settings)


def table(measure: str, rates: dict[str, float], ours: str, goals: dict[str, float]) -> list[dict]:
    """Rows of the report: each contestant's rate, and how many times it the store reaches."""
    return [
        {
            "measure": measure,
            "contestant": name,
            "rate": rate,
            "store is": f"{rates[ours] / rate:.2f}x",
            "goal": f"{goals[name]}x" if name in goals else "",
        }
        for name, rate in rates.items()
    ]


def in_turns(
    contestants: dict[str, Callable[[], object]],
    repeats: int = REPEATS,
    before: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Seconds of each contestant, the median of several rounds in which each has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            before()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in seconds.items()}


def new_writer(
    place: Path, images: int, layers: Sequence[str] = (LAYER,), valid: int = 0
) -> StoreWriter:
    """A new store of pictures that are not there; the last `valid` of them are of that split."""
    samples = [
        {
            "id": f"{row:06d}",
            "image": f"{row:06d}.png",
            "mask": f"{row:06d}.png",
            "split": "train" if row < images - valid else "valid",
            "generator": "made",
            "label": 1,
            "source": "made",
            "image_sha256": hashlib.sha256(str(row).encode()).hexdigest(),
            "mask_sha256": None,
        }
        for row in range(images)
    ]
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
        sizes=np.full((images, 2), PICTURE, np.int32),
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


def measure_writing(root: Path, rows: np.ndarray, images: int) -> dict[str, float]:
    """Some shards a turn, through the writer and as plain files of the same bytes, both durable."""
    writer = new_writer(root / "store", images)
    fill(writer, rows, writer.pending_shards())
    writer.finish()
    files = {
        key: (root / "store" / key).read_bytes()
        for shard in WRITTEN
        for key in (
            *(array.shard_key(shard) for array in writer.arrays.values()),
            fmt.ledger_key(shard),
        )
    }
    written = new_writer(root / "written", 64 * len(WRITTEN))

    def through_the_writer() -> None:
        fill(written, rows, WRITTEN)

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
        """What SHA-256, crc32c and looking for values that are not finite cost."""
        with (
            patch("declip_pipeline.store.writer._sha256_of_pieces", lambda pieces: "0" * 64),
            patch("declip_pipeline.store.writer.is_finite", lambda array, value: True),
            patch("declip_pipeline.store.shards._checksum", lambda content: b"0000"),
        ):
            through_the_writer()

    # A store's other records are written once for thousands of shards; they are not compared.
    contestants = {
        "store": through_the_writer,
        "store without checks": without_checks,
        "plain files, same fsyncs": plainly,
    }
    for run in contestants.values():
        run()
    seconds = in_turns(contestants, before=clean)
    size = sum(map(len, files.values())) / 1e6
    return {name: size / value for name, value in seconds.items()}


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
    """What TensorStore's own settings give."""
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


def measure_random(readers: dict[str, Callable], images: int) -> dict[str, float]:
    """Images a second of random batches, new ones in each turn: no cache may know them."""
    random = np.random.default_rng(1)
    for read in readers.values():
        read(np.arange(images))  # the page cache and the indexes
    turns = {
        name: partial(lambda read: read(random.permutation(images)[:BATCH]), read)
        for name, read in readers.items()
    }
    seconds = in_turns(turns, repeats=5 * REPEATS)
    return {name: BATCH / value for name, value in seconds.items()}


def measure_sequential(root: Path, images: int) -> dict[str, dict[str, float]]:
    """A whole layer in order, against `cat` of its files into nothing."""
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

    def cat() -> None:
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)

    def cold(run: Callable[[], None]) -> Callable[[], float]:
        def timed() -> float:
            for file in files:
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            run()
            return time.perf_counter() - started

        return timed

    size = sum(file.stat().st_size for file in files) / 1e6
    warm = in_turns({"store": read, "cat": cat})
    chilled: dict[str, list[float]] = {"store": [], "cat": []}
    for _ in range(REPEATS):
        chilled["store"].append(cold(read)())
        chilled["cat"].append(cold(cat)())
    return {
        "warm": {name: size / value for name, value in warm.items()},
        "cold": {name: size / median(values) for name, values in chilled.items()},
    }


if __name__ == "__main__":
    main()
