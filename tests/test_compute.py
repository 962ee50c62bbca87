"""Threads, memory, and what is counted and measured of a computation."""

import resource
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from declip_pipeline.backbones.onednn import linear_by_onednn
from declip_pipeline.compute import (
    mapping_parts,
    median_milliseconds,
    multiply_accumulates,
    release_freed_memory,
)

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


def test_multiply_accumulates_are_those_of_products():
    one, other = torch.randn(3, 4), torch.randn(4, 5)
    assert multiply_accumulates(lambda: one @ other) == 3 * 4 * 5
    image, kernel = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3)
    convolution = torch.nn.functional.conv2d
    assert multiply_accumulates(lambda: convolution(image, kernel, padding=1)) == 64 * 9 * 2 * 3
    assert multiply_accumulates(lambda: torch.relu(image) + 1) == 0


def test_attention_on_a_cpu_counts_both_of_its_products():
    heads, tokens, width = 2, 5, 8
    some = torch.randn(3, heads, tokens, width)
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = 2 * 3 * heads * tokens**2 * width
    assert multiply_accumulates(lambda: attention(some, some, some)) == expected


def test_a_linear_layer_counts_the_same_as_a_convolution_by_onednn():
    inputs, weight = torch.randn(20, 7, 24), torch.randn(16, 24)
    for compute in (torch.nn.functional.linear, lambda *both: linear_by_onednn(*both, None)):
        with torch.no_grad():
            assert multiply_accumulates(partial(compute, inputs, weight)) == 20 * 7 * 24 * 16


def test_time_is_the_median_of_calls_after_the_first(monkeypatch):
    clock = iter([0.0, 50.0, 50.0, 50.4, 50.4, 50.7, 50.7, 51.7])
    timing = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("declip_pipeline.compute.time", timing)
    assert median_milliseconds(lambda: None, torch.device("cpu")) == pytest.approx(400)
