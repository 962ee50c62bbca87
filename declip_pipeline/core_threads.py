"""Parts of a computation side by side, each on one core."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

# The results of a function for parts, in their order.
MapParts = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def mapping_parts(workers: int) -> Iterator[MapParts]:
    """A `map` over parts: so many of them at a time, each on one core, where that is above 1.

    Left to itself PyTorch shares every single operation between the cores and then waits for the
    slowest of them, a thousand times a second where operations are small. On quiet cores that is
    as fast; where other programs compute as well, it takes three times as long or more
    (benchmarks/light_decoders.py).
    """
    if workers <= 1:
        yield map
        return
    with (
        torch_threads(1),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as threads,
    ):
        yield threads.map


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have each of PyTorch's operations computed by so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        # The number is each thread's own, but a new thread begins with the one set last.
        torch.set_num_threads(before)
