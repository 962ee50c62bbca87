"""`mapping_parts` keeps the order of parts and the number of threads; memory goes back."""

import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.compute import mapping_parts, release_freed_memory

pytestmark = pytest.mark.usefixtures("two_threads")


def test_results_keep_the_order_and_each_part_has_one_core():
    together = threading.Barrier(2)

    def work(number: int) -> tuple[int, int]:
        together.wait(timeout=30)  # passed only by two parts at once
        return number * number, torch.get_num_threads()

    with mapping_parts(2) as map_parts:
        assert list(map_parts(work, range(6))) == [(n * n, 1) for n in range(6)]


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_stays_in_this_thread(workers):
    with mapping_parts(workers) as map_parts:
        found = list(
            map_parts(lambda _: (threading.get_ident(), torch.get_num_threads()), range(3))
        )
    assert set(found) == {(threading.get_ident(), 2)}


def fail(number: int) -> None:
    raise ValueError(f"part {number}")


@pytest.mark.parametrize("work", [int, fail])
def test_threads_born_later_have_as_many_cores_as_before(work):
    with mapping_parts(2) as map_parts:
        if work is fail:
            with pytest.raises(ValueError, match="part 0"):
                list(map_parts(work, range(4)))
        else:
            list(map_parts(work, range(4)))
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [*found, torch.get_num_threads()] == [2, 2]


def test_freed_memory_goes_back_to_the_system():
    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    # Blocks below the size that malloc maps by itself, with some in between that stay.
    blocks = [np.ones(2**13) for _ in range(3000)]
    kept = blocks[::100]
    held = resident()
    del blocks
    release_freed_memory()
    assert held - resident() > 120e6
    assert len(kept) == 30
