"""All that is pending of a store: filled, and the store declared complete."""

import random
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from declip_pipeline.extraction.shard_filling import ShardFiller

# Writes shards and yields each that is done.
FillShards = Callable[[Sequence[int]], Generator[int, None, None]]


def fill_store(
    filler: ShardFiller,
    *,
    fill: FillShards | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write every shard that is pending, then declare the store complete.

    `fill` writes them, by default `filler` itself, in this process. `progress` is told pictures
    done and in all. Raises as `extract` does.
    """
    writer = filler.writer
    pending = writer.pending_shards()
    total = writer.header.rows
    done = total - sum(len(writer.shard_rows(shard)) for shard in pending)
    progress(done, total)
    writer.require_space(pending, {shard: filler.stored_arrays(shard) for shard in pending})
    # Several extractors may fill one store. Each takes the shards in an order of its own and
    # leaves out what another has done meanwhile, so they seldom meet and need no locks to live on.
    random.shuffle(pending)
    with closing((fill or filler.fill)(pending)) as written:
        for shard in written:
            done += len(writer.shard_rows(shard))
            progress(done, total)
    writer.finish()
    progress(total, total)
