"""Costs that grow with the number of samples: the records of a store, without its features.

python benchmarks/scale.py [--samples 1000000] [--files 200000] [--openings 5]
    [--folder DIR]

A store of so many samples is made whose records are real (manifest, metadata, an entry of the
ledger for each shard, completion). Two shards are written; those behind them are links to the
second, so that every file is there to be listed. Each step then runs in a process of its own, which
gives its wall and processor seconds and the most memory that it held ("grown": beyond what the
imports and the opened arguments took). Everything is measured at a quarter of the samples as well:
a ratio near 4 is linear, 16 quadratic. Opening is the fastest of several. Of the scan of a dataset,
`--files` files are read, all of them links to one image and one mask.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

QUARTER = 4
OPENING_SECONDS, OPENING_MB = 2.0, 1000.0
ARCH, LAYER = "pixels:32", "pixels"
GENERATORS = ("ldm", "lama", "pluralistic", "repaint-p2-9k")
SOURCES = ("celebahq", "ffhq")
SIDES = (256, 320, 384, 448, 512)
WRITTEN = 2
BATCHES = 10


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--samples", type=int, default=1_000_000)
    arguments.add_argument("--files", type=int, default=200_000, help="files that a scan reads")
    arguments.add_argument("--openings", type=int, default=5)
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    arguments.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.step is not None:
        print(json.dumps(measured(options.step, options.root, options.samples, options.files)))
        return

    from reporting import report

    found = {}
    for part in (QUARTER, 1):
        samples, files = options.samples // part, options.files // part
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found[part] = {step: in_process(step, folder, samples, files) for step in STEPS}
            # It has a goal in seconds, so it is measured where other programs disturb it least.
            more = range(options.openings - 1)
            again = [in_process("open", folder, samples, files) for _ in more]
            found[part]["open"] = min([found[part]["open"], *again], key=lambda one: one["seconds"])
    rows = [
        {
            "step": STEPS[step][0],
            "seconds": one["seconds"],
            "CPU": one["cpu"],
            "peak MB": one["peak"],
            "grown MB": one["grown"],
            f"1/{QUARTER}: seconds": fewer["seconds"],
            "grown": fewer["grown"],
            "ratio of CPU": one["cpu"] / max(fewer["cpu"], 0.01),
            "goal": goal(step, one),
        }
        for step, one in found[1].items()
        for fewer in [found[QUARTER][step]]
    ]
    report("scale", rows, {"samples": options.samples, "files": options.files})


def goal(step: str, one: dict[str, float]) -> str:
    """Say what is asked of a step, and whether it does it; every step but opening has no goal."""
    if step != "open":
        return ""
    is_met = one["seconds"] <= OPENING_SECONDS and one["peak"] <= OPENING_MB
    asked = f"at most {OPENING_SECONDS:g} s and {OPENING_MB:g} MB"
    return f"{asked}: {'met' if is_met else 'missed'}"


def in_process(step: str, root: str, samples: int, files: int) -> dict[str, float]:
    """Measure a step in a fresh process."""
    command = [sys.executable, __file__, "--step", step, "--root", root]
    command += ["--samples", str(samples), "--files", str(files)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    value: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    print(f"{samples} {step}: {value}", file=sys.stderr)
    return value


def measured(step: str, root: Path, samples: int, files: int) -> dict[str, float]:
    """Run a step, and return its seconds and megabytes."""
    share_shards()
    with STEPS[step][1](root, samples, files) as work:
        before = peak_mb()
        started, used = time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"seconds": seconds, "cpu": cpu, "peak": peak_mb(), "grown": peak_mb() - before}


def share_shards() -> None:
    """Let the few shards that are written stand for all: each has the mark of its own rows else."""
    from declip_pipeline.store.header import StoreHeader

    shard_mark = StoreHeader.shard_mark

    def of_written(self: Any, array: Any, shard: int, samples: Any) -> bytes:
        return shard_mark(self, array, shard % WRITTEN, samples)

    StoreHeader.shard_mark = of_written  # type: ignore[method-assign]


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    # Not `resource.getrusage`: what that says starts with what the parent held.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


Work = Iterator[Callable[[], object]]


@contextmanager
def build(root: Path, samples: int, files: int) -> Work:
    """The records of a store, all but the ledger's entries, which are written here by hand."""
    from declip_pipeline.files import canonical_json
    from declip_pipeline.images.views import CLEAN_VIEW
    from declip_pipeline.store import format as fmt
    from declip_pipeline.store.writer import StoreWriter

    dataset = made_dataset(samples)
    (root / "samples.parquet").write_bytes(dataset.samples.to_parquet())
    plan = planned(root, samples, CLEAN_VIEW)

    def work() -> None:
        writer = StoreWriter(
            plan.location,
            identity=plan.identity,
            layers=plan.layers,
            dataset=plan.dataset,
            provenance={"root": str(root)},
            samples=plan.samples,
            fake_is_white=plan.fake_is_white,
        )
        random = np.random.default_rng(0)
        for shard in range(WRITTEN):
            rows = list(writer.shard_rows(shard))
            values = {
                name: [made_row(array, writer.sizes[row], random) for row in rows]
                for name, array in writer.arrays.items()
            }
            writer.write_shard(shard, rows, values, {})
        folder = Path(plan.location)
        entry = json.loads((folder / fmt.ledger_key(WRITTEN - 1)).read_bytes())
        files = {array.name: entry["files"][array.shard_key(1)] for array in writer.arrays.values()}
        for shard in range(WRITTEN, writer.header.shards):
            places = writer.shard_rows(shard)
            for array in writer.arrays.values():
                source = folder / array.shard_key(shard % WRITTEN)
                (folder / array.shard_key(shard)).hardlink_to(source)
            entry |= {
                "shard": shard,
                "rows": [places.start, places.stop],
                "files": {
                    array.shard_key(shard): {
                        **files[array.name],
                        "bytes": (folder / array.shard_key(shard)).stat().st_size,
                    }
                    for array in writer.arrays.values()
                },
            }
            (folder / fmt.ledger_key(shard)).write_bytes(canonical_json(entry))

    yield work


@contextmanager
def finish(root: Path, samples: int, files: int) -> Work:
    """Declare the store complete, as the last act of an extraction."""
    from declip_pipeline.store.writer import StoreWriter

    yield lambda: StoreWriter.reopen(location_of(root)).finish()


@contextmanager
def opening(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.store.reader import Store

    location = location_of(root)
    yield lambda: Store(location)


@contextmanager
def select(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.store.reader import Store

    store = Store(location_of(root))

    def work() -> None:
        rows = store.fake_rows("train", GENERATORS[:1])
        assert len(rows), "a split and a generator have fakes"

    yield work


@contextmanager
def epoch(root: Path, samples: int, files: int) -> Work:
    """The feeds of a training, the order of its first epoch, and that epoch's first batches."""
    import torch

    from declip_pipeline.compute import permutation
    from declip_pipeline.store.reader import Store
    from declip_pipeline.training.data import TrainingData

    store = Store(location_of(root))

    def work() -> None:
        data = TrainingData([store], device=torch.device("cpu"), tier="stream")
        feed, _ = data.feeds([data.inputs(LAYER)], GENERATORS)
        order = permutation(len(feed), 0, "epoch", 0)
        for _, batch in zip(range(BATCHES), feed.batches(order, 64), strict=False):
            feed.sample_ids(batch.positions)

    yield work


@contextmanager
def plan_alone(root: Path, samples: int, files: int) -> Work:
    """The plan of a first extraction: the place where its store will lie is empty."""
    from declip_pipeline.images.views import CLEAN_VIEW

    yield planning(root / "elsewhere", root, samples, CLEAN_VIEW)


@contextmanager
def plan_view(root: Path, samples: int, files: int) -> Work:
    """The plan of another view of the images that the store holds."""
    from declip_pipeline.images.views import parse_view

    yield planning(root, root, samples, parse_view("jpeg:70"))


@contextmanager
def dry_run(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.extraction.estimate import estimate_extraction
    from declip_pipeline.images.views import parse_view

    plan = planned(root, samples, parse_view("jpeg:70"))
    yield lambda: estimate_extraction(plan, tiny_backbone(), batch_size=32)


@contextmanager
def dry_run_again(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.extraction.estimate import estimate_extraction
    from declip_pipeline.images.views import CLEAN_VIEW

    plan = planned(root, samples, CLEAN_VIEW)
    yield lambda: estimate_extraction(plan, tiny_backbone(), batch_size=32)


@contextmanager
def start(root: Path, samples: int, files: int) -> Work:
    """All that an extraction of another view does before its first image."""
    from declip_pipeline.extraction.reuse import match_rows
    from declip_pipeline.extraction.shard_filling import ShardFiller
    from declip_pipeline.images.views import parse_view
    from declip_pipeline.store.writer import StoreWriter

    plan = planned(root, samples, parse_view("jpeg:70"))

    def work() -> None:
        writer = StoreWriter(
            plan.location,
            identity=plan.identity,
            layers=plan.layers,
            dataset=plan.dataset,
            provenance={},
            samples=plan.samples,
            fake_is_white=plan.fake_is_white,
        )
        reuse = match_rows(writer.samples, writer.header.identity, plan.earlier)
        filler = ShardFiller(writer, tiny_backbone(), reuse, read=plan.read, batch_size=32)
        pending = writer.pending_shards()
        writer.require_space(pending, {shard: filler.stored_arrays(shard) for shard in pending})

    yield work


@contextmanager
def info(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.store.catalog import describe_store

    location = location_of(root)
    yield lambda: describe_store(location)


@contextmanager
def ls(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.store.catalog import list_stores

    yield lambda: list_stores(root)


@contextmanager
def verify(root: Path, samples: int, files: int) -> Work:
    from declip_pipeline.store.verify import verify_store

    location = location_of(root)

    def work() -> None:
        problems = verify_store(location).problems
        assert not problems, problems[0]

    yield work


@contextmanager
def scan(root: Path, samples: int, files: int) -> Work:
    """The scan of `files` files, half of them masks: links of folders give one file many paths."""
    from PIL import Image

    from declip_pipeline.datasets.dataset import Dataset
    from declip_pipeline.datasets.samples import Samples
    from declip_pipeline.datasets.scan import scan_dataset

    tree = root / "tree"
    tree.mkdir()
    for digit in range(10):
        (tree / str(digit)).symlink_to(".")
    Image.new("RGB", (32, 32)).save(tree / "image.png")
    Image.new("L", (32, 32)).save(tree / "mask.png")
    folders = ["/".join(f"{number:06d}") for number in range(files // 2)]
    samples_of = Samples.from_columns(
        [f"{folder}/image.png" for folder in folders],
        mask=[f"{folder}/mask.png" for folder in folders],
        generator="ldm",
        source="made",
    )
    dataset = Dataset("made", tree, True, samples_of)
    yield lambda: scan_dataset(dataset)


STEPS = {
    "build": ("begin a store, and write its ledger by hand", build),
    "finish": ("declare the store complete", finish),
    "open": ("open the store", opening),
    "select": ("select a split and a generator", select),
    "epoch": ("order of an epoch, and 10 batches", epoch),
    "plan": ("plan a first extraction", plan_alone),
    "plan-view": ("plan another view beside the store", plan_view),
    "dry-run": ("dry run of another view", dry_run),
    "dry-run-again": ("dry run of what is there", dry_run_again),
    "start": ("start the extraction of another view", start),
    "info": ("cache info", info),
    "ls": ("cache ls", ls),
    "verify": ("cache verify", verify),
    "scan": ("scan of --files files", scan),
}
"""Steps to measure, in order: the first two make what the others read."""


def tiny_backbone() -> Any:
    """A backbone that costs next to nothing."""
    from declip_pipeline.backbones.registry import open_backbone

    return open_backbone(ARCH)


def location_of(root: Path) -> str:
    """The store that was built."""
    return str(next(root.glob("made/*/clean-*")))


def planning(cache: Path, root: Path, samples: int, view: Any) -> Callable[[], object]:
    """Open what a plan needs, and return the planning of it."""
    from declip_pipeline.extraction.store_plan import plan_store

    dataset, backbone = scanned(root), tiny_backbone()
    return lambda: plan_store(
        dataset,
        backbone,
        layers=[LAYER],
        root=cache,
        view=view,
        dtype="float16",
        max_megapixels=100.0,
        overwrite=False,
    )


def planned(root: Path, samples: int, view: Any) -> Any:
    """A plan beside the built store, whose images are all read as one made image."""
    from declip_pipeline.extraction.sample_reading import ReadSample

    def read(sample: Any) -> Any:
        mask = np.zeros((sample.height, sample.width), bool)
        side = np.zeros((256, 256), np.uint8)
        image = np.zeros((32, 32, 3), np.uint8)
        return ReadSample(image, mask, side, np.zeros((128, 128, 3), np.uint8))

    return replace(planning(root, root, samples, view)(), read=read)


def scanned(root: Path) -> Any:
    """The made dataset."""
    from declip_pipeline.datasets.dataset import Dataset
    from declip_pipeline.datasets.samples import Samples

    samples = Samples.from_parquet((root / "samples.parquet").read_bytes())
    return Dataset("made", root, True, samples)


def made_dataset(count: int) -> Any:
    """Samples like those of Dolos: one in five real, the fakes of a scene by each generator."""
    from declip_pipeline.datasets.dataset import Dataset
    from declip_pipeline.datasets.sample import FAKE, REAL, REAL_GENERATOR
    from declip_pipeline.datasets.samples import Samples

    random = np.random.default_rng(0)
    kinds = (REAL_GENERATOR, *GENERATORS)
    number = np.arange(count)
    kind, scene = number % len(kinds), number // len(kinds)
    split = np.array(["train"] * 8 + ["valid", "test"])[scene % 10]
    source = np.array(SOURCES)[scene % len(SOURCES)]
    stems = [
        f"{source[n]}/{'fake/' if kind[n] else ''}{kinds[kind[n]]}/{{}}/{split[n]}/{scene[n]:07d}"
        for n in range(count)
    ]
    is_fake = kind > 0
    samples = Samples.from_columns(
        [stem.format("images") + ".png" for stem in stems],
        mask=[
            stem.format("masks") + ".png" if fake else None
            for stem, fake in zip(stems, is_fake, strict=True)
        ],
        split=split.tolist(),
        generator=[kinds[k] for k in kind],
        source=source.tolist(),
        label=np.where(is_fake, FAKE, REAL).tolist(),
        scene=[f"{one:07d}" for one in scene],
    )

    def hashes() -> pa.Array:
        content = pa.py_buffer(random.bytes(32 * count))
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, content])

    masks = pa.array(np.where(is_fake, number, -1), mask=~is_fake)
    samples = samples.replace(
        height=np.array(SIDES, np.int32)[random.integers(len(SIDES), size=count)],
        width=np.array(SIDES, np.int32)[random.integers(len(SIDES), size=count)],
        image_sha256=hashes(),
        mask_sha256=hashes().take(masks),
    )
    return Dataset("made", Path(), True, samples)


def made_row(array: Any, size: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A row of an array of the store."""
    shape = tuple(size.tolist()) if array.name == "masks" else array.row_shape
    if array.is_of_layer:
        return random.standard_normal(shape).astype(array.dtype)
    value = np.zeros(shape, array.dtype)
    value[: shape[0] // 3] = 1 if array.name == "masks" else 255
    return value


if __name__ == "__main__":
    main()
