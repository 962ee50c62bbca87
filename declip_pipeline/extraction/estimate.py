"""The price of an extraction, from a short trial on the same images, device and pipeline."""

import fcntl
import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, gettempdir

import numpy as np

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.extraction.reuse import EarlierStores, match_rows
from declip_pipeline.extraction.shard_filling import (
    SHARDS_BEING_WRITTEN,
    SHARDS_IN_MEMORY,
    ShardFiller,
    fill_store,
)
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.store_plan import StorePlan
from declip_pipeline.store import format as fmt
from declip_pipeline.store.storage import URL_MARK, storage_at
from declip_pipeline.store.writer import StoreWriter

TRIAL_SECONDS = 10.0
TRIALS = 3
_TRIAL = ".declip-pipe-trial-"
FEWEST, MOST = 8, fmt.ROWS_PER_SHARD


@dataclass(frozen=True)
class Estimate:
    """Cost of a store to be extracted.

    Of `images`, `done_images` are in the store already, `computed_images` go through the backbone,
    the others are in earlier stores.
    `store_bytes` is the store's size, `free_bytes` what its place has left (None without a limit),
    `seconds` the time of the extraction itself, `peak_bytes` the most memory the process will hold.
    """

    images: int
    done_images: int
    computed_images: int
    store_bytes: int
    free_bytes: int | None
    seconds: float
    peak_bytes: int


def estimate_extraction(plan: StorePlan, backbone: Backbone, *, batch_size: int) -> Estimate:
    """Extract a few of the images into a temporary store, and work out the rest from it.

    Takes about ten seconds, more where eight images do. Raises as `extract` does.
    """
    reuse = match_rows(plan.samples, plan.identity, plan.earlier)
    done = _are_done(plan)
    everything = range(len(plan.samples))
    is_there = np.all([reuse.have(everything, layer) for layer in plan.layers], axis=0)
    computed = np.flatnonzero(~done & ~is_there).tolist()
    # A few first: they warm up the device and tell how many more the trials can take.
    seconds, row_bytes = _trial(
        plan, backbone, _spread(range(len(plan.samples)), FEWEST), batch_size
    )
    if computed:
        many = min(MOST, max(FEWEST, int(TRIAL_SECONDS / TRIALS / seconds)))
        rows = _spread(computed, many)
        # The middle one of several: other programs may take the machine for a moment.
        count = TRIALS if seconds * len(rows) < TRIAL_SECONDS else 1
        trials = [_trial(plan, backbone, rows, batch_size) for _ in range(count)]
        seconds, row_bytes = median(trial[0] for trial in trials), trials[0][1]
    rows_ahead = max(0, SHARDS_IN_MEMORY * fmt.ROWS_PER_SHARD - MOST)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Estimate(
        images=len(plan.samples),
        done_images=int(done.sum()),
        computed_images=len(computed),
        store_bytes=round(row_bytes * len(plan.samples)),
        free_bytes=storage_at(plan.location).free_bytes(),
        seconds=seconds * len(computed),
        peak_bytes=round(
            peak
            + row_bytes * min(rows_ahead, len(computed))
            + picture_bytes(plan.samples.sizes, plan.samples.row_sizes)
        ),
    )


def _are_done(plan: StorePlan) -> np.ndarray:
    """Tell of each sample, (N,) bool, whether an earlier run of the same extraction wrote it."""
    if plan.overwrite or not storage_at(plan.location).exists(fmt.GROUP):
        return np.zeros(len(plan.samples), bool)
    writer = StoreWriter.reopen(plan.location)
    is_pending = np.zeros(len(writer.samples), bool)
    for shard in writer.pending_shards():
        rows = writer.shard_rows(shard)
        is_pending[rows.start : rows.stop] = True
    row = writer.samples.find(plan.samples.ids)
    is_done: np.ndarray = (row >= 0) & ~is_pending[row]
    return is_done


def _trial_place(location: str) -> Path | None:
    """A folder on the store's own disk; None, the machine's own, for a store in a bucket."""
    if URL_MARK in location:
        return None
    return next(folder for folder in Path(location).absolute().parents if folder.is_dir())


@contextmanager
def _trial_folder(place: Path | None) -> Iterator[str]:
    """A folder that goes at the end; those that killed estimates left beside it go first.

    A lock on the folder, which the kernel lets go with its holder, tells them from one in use.
    """
    for folder in Path(place or gettempdir()).glob(f"{_TRIAL}*"):
        with suppress(OSError), _locked(folder):
            shutil.rmtree(folder)
    with TemporaryDirectory(prefix=_TRIAL, dir=place) as name, ExitStack() as lock:
        with suppress(OSError):  # a disk without locks: it is left for others to remove
            lock.enter_context(_locked(Path(name)))
        yield name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; raises `OSError` where another process does, or there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _spread(rows: range | list[int], count: int) -> list[int]:
    """At most `count` of the rows, evenly from first to last."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places.tolist()]


def _trial(
    plan: StorePlan, backbone: Backbone, rows: list[int], batch_size: int
) -> tuple[float, float]:
    """Seconds and stored bytes an image, from these rows extracted on their own."""
    with _trial_folder(_trial_place(plan.location)) as folder:
        writer = StoreWriter(
            f"{folder}/store",
            identity=plan.identity,
            layers=plan.layers,
            dataset=plan.dataset,
            provenance={},
            samples=plan.samples.take(rows),
            fake_is_white=plan.fake_is_white,
        )
        times = StageTimes()
        none = EarlierStores([])
        filler = ShardFiller(
            writer, backbone, none, read=plan.read, batch_size=batch_size, times=times
        )
        fill_store(filler)
        shards = {
            array.shard_key(shard)
            for array in writer.arrays.values()
            for shard in range(writer.header.shards)
        }
        sizes = writer.storage.sizes()
        used = sum(size for key, size in sizes.items() if key in shards)
    on_cuda = backbone.device.type == "cuda"
    seconds = _seconds_of_slowest(times.seconds, copies_overlap=on_cuda)
    return seconds / len(rows), used / len(rows)


def picture_bytes(sizes: np.ndarray, row_sizes: np.ndarray) -> float:
    """Bytes that images of these sizes, (N, 2) in pixels, take while they are under way.

    Their rows' masks, of `row_sizes`, until they are written, and in each thread that decodes the
    largest image's colours, twice, and its mask.
    """
    pixels, row_pixels = (some.astype(np.int64).prod(axis=1) for some in (sizes, row_sizes))
    waiting = min(len(row_pixels), SHARDS_IN_MEMORY * fmt.ROWS_PER_SHARD)
    return float(row_pixels.mean() * waiting + 7 * pixels.max() * len(os.sched_getaffinity(0)))


def _seconds_of_slowest(seconds: Mapping[str, float], *, copies_overlap: bool) -> float:
    """The seconds of the stage that a long extraction waits for: the others run beside it."""
    computing = seconds["forward"] + seconds["encode"]
    return max(
        max(computing, seconds["copy"]) if copies_overlap else computing + seconds["copy"],
        seconds["decode"] / len(os.sched_getaffinity(0)),
        seconds["write"] / SHARDS_BEING_WRITTEN,
    )
