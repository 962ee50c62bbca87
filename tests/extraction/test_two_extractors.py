"""Several extractors at work on one store: all end well, none tears or repeats another's work."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from support.forked_extraction import Run, forked_extractions
from support.handmade_store import (
    ROWS_PER_SHARD,
    SAMPLES,
    VALUES,
    begin_store,
    files_of,
    write_pending,
)
from support.made_dataset import write_dataset

from declip_pipeline.errors import StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.local import LocalStorage, _Partial
from declip_pipeline.store.reader import Store

SHARDS = 12


@pytest.fixture(scope="module")
def arguments(golden, tmp_path_factory):
    """The command for a cache."""
    pictures = {"train": 2 * SHARDS - 2, "valid": 1, "test": 1}
    dataset = write_dataset(tmp_path_factory.mktemp("images") / "noisy", pictures)
    options = ("--arch", "CLIP:from-file", "--weights", golden / "tiny_vit_openai.pt")

    def into(cache: Path, batch_size: int = 2) -> tuple[str, ...]:
        options_too = ("--layers", "layer0,layer3", "--batch-size", batch_size, "--cache", cache)
        return tuple(map(str, ("extract", dataset, *options, *options_too)))

    return into


@pytest.fixture(scope="module")
def run(golden):
    return forked_extractions(golden / "tiny_vit_openai.pt", ROWS_PER_SHARD).run


@pytest.fixture(scope="module")
def alone(run, arguments, tmp_path_factory):
    """All files of a cache with a store that one extractor made, and its processor time."""
    cache = tmp_path_factory.mktemp("alone")
    [ending] = run(Run(arguments(cache)))
    assert ending.code == 0, ending.err
    assert sorted(ending.computed) == list(range(SHARDS))
    return files_of(cache), ending.seconds


@pytest.mark.slow
def test_two_processes_make_one_store(run, arguments, alone, tmp_path):
    """Each takes the shards in an order of its own. So the same one is seldom computed twice: a
    few times towards the end, however many there are."""
    expected, duration = alone
    all_twice = []
    print("\nthe second begins at a part of the first's time; shards computed by each, and twice")
    for begins in (0.0, 0.1, 0.3, 0.6, 0.9):
        command = arguments(tmp_path / f"cache{begins}")
        first, second = run(Run(command), Run(command, delay=begins * duration))
        assert (first.code, second.code) == (0, 0), first.err + second.err
        assert first.out == second.out
        assert files_of(tmp_path / f"cache{begins}") == expected
        assert {*first.computed, *second.computed} == set(range(SHARDS))
        twice = len(first.computed) + len(second.computed) - SHARDS
        print(f"{begins}: {len(first.computed)} and {len(second.computed)}, {twice} twice")
        all_twice.append(twice)
    assert sum(all_twice) < 0.5 * SHARDS * len(all_twice)


@pytest.mark.slow
def test_one_of_two_dies_and_the_other_finishes(run, arguments, alone, tmp_path):
    expected, duration = alone
    command = arguments(tmp_path)
    first, second = run(Run(command, moment=0.4 * duration), Run(command))
    assert (first.code, second.code) == (-9, 0), second.err
    assert files_of(tmp_path) == expected


@pytest.mark.slow
def test_three_processes_of_which_one_has_another_batch_size(run, arguments, tmp_path):
    """Features may differ in their last bits, so what is asked is that all fits together."""
    commands = [arguments(tmp_path, batch_size) for batch_size in (1, 2, 2)]
    endings = run(*map(Run, commands))
    assert [ending.code for ending in endings] == [0, 0, 0], endings[0].err
    [location] = {ending.out.strip() for ending in endings}
    require_ledger_true(Path(location), SHARDS)


def require_ledger_true(path: Path, shards: int) -> None:
    for shard in range(shards):
        entry = json.loads((path / fmt.ledger_key(shard)).read_bytes())
        for key, said in entry["files"].items():
            content = (path / key).read_bytes()
            assert said == {"bytes": len(content), "blake3": blake3(content).hexdigest()}
    assert [name for name in files_of(path) if "partial" in name] == []
    assert Store(path).failures == {}


@contextmanager
def at_call(number: int, happens: Any) -> Iterator[list[str]]:
    """Within, `happens` before call number `number` to a storage that no lock guards.

    The list has the names of the calls.
    """
    calls: list[str] = []
    guarded = False
    exclusively = LocalStorage.exclusively

    def called(name: str) -> None:
        nonlocal guarded
        if not guarded:
            calls.append(name)
            if len(calls) == number:
                guarded = True
                happens()
                guarded = False

    @contextmanager
    def exclusively_too(self: LocalStorage, key: str = "") -> Iterator[None]:
        nonlocal guarded
        called("exclusively")
        with exclusively(self, key):
            before, guarded = guarded, True
            try:
                yield
            finally:
                guarded = before

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "exists", "sizes", "write", "create", "remove_leftovers"):
            method = getattr(LocalStorage, name)

            def stand_in(self: Any, *given: Any, name: str = name, method: Any = method) -> Any:
                called(name)
                return method(self, *given)

            patch.setattr(LocalStorage, name, stand_in)
        patch.setattr(LocalStorage, "exclusively", exclusively_too)
        yield calls


@pytest.mark.slow
def test_another_writer_comes_first_at_any_moment(small_shards, tmp_path):
    """At each moment of a writer's work another one, with another order of rows, does it all."""
    path = tmp_path / "store"
    orders = {}
    for name, samples in (("forward", SAMPLES), ("backward", SAMPLES[::-1])):
        write_pending(begin_store(tmp_path / name, samples))
        orders[samples[0].id] = files_of(tmp_path / name)
    seen = set()
    number, calls = 0, [""]
    while len(calls) > number:
        number += 1
        with at_call(number, lambda: write_pending(begin_store(path, SAMPLES[::-1]))) as calls:
            store = begin_store(path, SAMPLES)
            write_pending(store)
        if len(calls) < number:
            break
        found = Store(path)
        assert store.samples == found.samples
        for name, of_sample in VALUES.items():
            expected = [of_sample[sample.id] for sample in found.samples]
            np.testing.assert_array_equal(found.read_array(name, np.arange(3)), expected)
        first = found.samples[0].id
        assert files_of(path) == orders[first]
        seen.add(first)
        shutil.rmtree(path)
    assert number > 10
    assert seen == set(orders), "either may be the first"


@pytest.mark.slow
def test_writers_that_begin_together_agree_on_the_order_of_rows(small_shards, tmp_path):
    orders = [SAMPLES, SAMPLES.take([1, 2, 0]), SAMPLES[::-1]]
    for attempt in range(20):
        path = tmp_path / str(attempt)
        begun = together([partial(begin_store, path, samples) for samples in orders])
        found = [[sample.id for sample in store.samples] for store in begun]
        assert len(found) == 3
        assert found[0] == found[1] == found[2]


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls return, made at the same moment from a thread each."""
    barrier = threading.Barrier(len(calls))

    def after_all_are_there(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(after_all_are_there, calls))


@pytest.mark.slow
def test_one_shard_written_by_several_with_differing_bytes(small_shards, tmp_path):
    winners = set()
    for attempt in range(20):
        path = tmp_path / str(attempt)
        together([partial(write_pending, begin_store(path), more=more) for more in range(3)])
        require_ledger_true(path, 2)
        store = Store(path)
        for rows in (np.arange(2), np.arange(2, 3)):
            differences = {
                int(found) - int(VALUES[name][SAMPLES[row].id].flat[0])
                for name in ("layers/layer0", "targets", "thumbnails")
                for row, values in zip(rows, store.read_array(name, rows), strict=True)
                for found in np.unique(values)
            }
            assert len(differences) == 1, "all of a shard is one writer's"
            winners |= differences
    print(f"\nwinners: {sorted(winners)}")


def test_a_writer_that_fails_writes_nothing_more(small_shards, tmp_path, monkeypatch):
    """Its threads end before it lets the shard go: else they could replace another's files."""
    place, ended = _Partial.place, []
    begun = threading.Event()

    def failing(self: _Partial) -> None:
        if self.key.startswith("layers/") and self.key.endswith("0.0"):
            begun.wait(10)
            raise StoreError("the disk is bad")
        if self.key.startswith("targets/c"):
            begun.set()
            time.sleep(0.3)
        place(self)
        ended.append(self.key)

    store = begin_store(tmp_path / "store")
    monkeypatch.setattr(_Partial, "place", failing)
    with pytest.raises(StoreError, match="the disk is bad"):
        write_pending(store)
    assert any(key.startswith("targets/c") for key in ended)
    before = list(ended)
    time.sleep(0.1)
    assert ended == before
