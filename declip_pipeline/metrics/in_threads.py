"""Parts of a computation side by side, each on one core."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_threads(work: Callable[[Part], Result], parts: Sequence[Part], workers: int) -> list[Result]:
    """`work` on every part, in order; `workers` at a time, each on one core, where that is above 1.

    Left to itself torch shares every single operation between the cores and then waits for the
    slowest of them, a hundred times a part. Where other programs run too, that is many times
    slower than this; on idle cores it is no faster.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        return [work(part) for part in parts]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        # The number is each thread's own, but a new thread begins with the one set last.
        torch.set_num_threads(threads)
