"""The price of an extraction, from a short trial on the same pictures, device and pipeline."""

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.extraction.reuse import EarlierStores, match_rows
from declip_pipeline.extraction.shard_filling import (
    SHARDS_BEING_WRITTEN,
    SHARDS_IN_MEMORY,
    ShardFiller,
)
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.store_filling import fill_store
from declip_pipeline.extraction.store_plan import StorePlan
from declip_pipeline.store import format as fmt
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.writer import StoreWriter

TRIAL_SECONDS = 10.0
TRIALS = 3
FEWEST, MOST = 8, fmt.ROWS_PER_SHARD


@dataclass(frozen=True)
class Estimate:
    """What a store will cost.

    `computed_images` of `images` go through the backbone, the others are in earlier stores.
    `store_bytes` is the store's size, `free_bytes` what its place has left (None without a limit),
    `seconds` the time of the extraction itself, `peak_bytes` the most memory the process will hold.
    """

    images: int
    computed_images: int
    store_bytes: int
    free_bytes: int | None
    seconds: float
    peak_bytes: int


def estimate_extraction(plan: StorePlan, backbone: Backbone, *, batch_size: int) -> Estimate:
    """Extract a few of the pictures into a temporary store, and work out the rest from it.

    Takes about ten seconds, more where eight pictures do. Raises as `extract` does.
    """
    reuse = match_rows(plan.samples, plan.identity, plan.earlier)
    computed = [
        row
        for row in range(len(plan.samples))
        if not all(reuse.has(row, layer) for layer in plan.layers)
    ]
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
        computed_images=len(computed),
        store_bytes=round(row_bytes * len(plan.samples)),
        free_bytes=storage_at(plan.location).free_bytes(),
        seconds=seconds * len(computed),
        peak_bytes=round(peak + row_bytes * min(rows_ahead, len(computed))),
    )


def _spread(rows: range | list[int], count: int) -> list[int]:
    """At most `count` of the rows, evenly from first to last."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places.tolist()]


def _trial(
    plan: StorePlan, backbone: Backbone, rows: list[int], batch_size: int
) -> tuple[float, float]:
    """Seconds and stored bytes a picture, from these rows extracted on their own."""
    with TemporaryDirectory(prefix="declip-pipe-trial-") as folder:
        writer = StoreWriter(
            f"{folder}/store",
            identity=plan.identity,
            layers=plan.layers,
            dataset=plan.dataset,
            provenance={},
            samples=[plan.samples[row] for row in rows],
            fake_is_white=plan.fake_is_white,
            sizes=plan.sizes[rows],
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
    return _seconds_of_slowest(times.seconds) / len(rows), used / len(rows)


def _seconds_of_slowest(seconds: Mapping[str, float]) -> float:
    """The seconds of the stage that a long extraction waits for: the others run beside it."""
    return max(
        seconds["copy"] + seconds["forward"] + seconds["encode"],
        seconds["decode"] / len(os.sched_getaffinity(0)),
        seconds["write"] / SHARDS_BEING_WRITTEN,
    )
