import threading

import pytest
import torch

from declip_pipeline.metrics.in_threads import in_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_and_each_part_has_one_core():
    together = threading.Barrier(2)

    def work(number: int) -> tuple[int, int]:
        together.wait(timeout=30)  # passed only by two parts at once
        return number * number, torch.get_num_threads()

    assert in_threads(work, range(6), workers=2) == [(n * n, 1) for n in range(6)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_one_worker_or_one_part_stays_in_this_thread(workers):
    here = threading.get_ident()
    parts = range(1 if workers == 2 else 3)
    found = in_threads(lambda _: (threading.get_ident(), torch.get_num_threads()), parts, workers)
    assert set(found) == {(here, 2)}


def fail(number: int) -> None:
    raise ValueError(f"part {number}")


@pytest.mark.parametrize("work", [int, fail])
def test_threads_born_later_have_as_many_cores_as_before(work):
    if work is fail:
        with pytest.raises(ValueError, match="part 0"):
            in_threads(work, range(4), workers=2)
    else:
        in_threads(work, range(4), workers=2)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [*found, torch.get_num_threads()] == [2, 2]
