"""An extraction killed at any moment is finished by the same command, byte for byte.

`pytest -s` shows each schedule and what came of it.
"""

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.forked_extraction import Ending, ForkedExtractions, Run, forked_extractions
from support.handmade_store import files_of, require_no_store
from support.made_dataset import write_dataset

from declip_pipeline.errors import StoreError
from declip_pipeline.store.reader import Store

SEED = 3
MOMENTS = 25
PICTURES = 9
ROWS_PER_SHARD = 2
# Before the program has its own way with a signal, the signal ends it as it ends any program.
CODES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {143, -signal.SIGTERM},
    signal.SIGINT: {130, -signal.SIGINT},
}


@pytest.fixture(scope="module")
def extractions(golden) -> ForkedExtractions:
    return forked_extractions(golden / "tiny_vit_openai.pt", ROWS_PER_SHARD)


@pytest.fixture(scope="module")
def arguments(golden, tmp_path_factory):
    """The command for a cache: all layers of the tiny ViT for a few images."""
    pictures = {"train": PICTURES - 2, "valid": 1, "test": 1}
    dataset = write_dataset(tmp_path_factory.mktemp("images") / "noisy", pictures)
    weights = golden / "tiny_vit_openai.pt"

    def into(cache: Path) -> tuple[str, ...]:
        options = ("--arch", "CLIP:from-file", "--weights", weights, "--batch-size", 2)
        return tuple(map(str, ("extract", dataset, *options, "--cache", cache)))

    return into


@pytest.fixture(scope="module")
def undisturbed(extractions, arguments, tmp_path_factory):
    """All files under a cache with one undisturbed store, and the processor time it takes."""
    seconds = []
    for _ in range(3):
        cache = tmp_path_factory.mktemp("undisturbed")
        [ending] = extractions.run(Run(arguments(cache)))
        assert ending.code == 0, ending.err
        seconds.append(ending.seconds)
    return files_of(cache), sorted(seconds)[1]


def shards_written(cache: Path) -> int:
    return len(list(cache.glob("*/*/*/ledger/*.json")))


def require_complete_or_refused(cache: Path) -> None:
    """What a kill leaves is no store to any reader, unless it is all of it."""
    for folder in cache.glob("*/*/*"):
        try:
            store = Store(folder)
        except StoreError as error:
            require_no_store(error)
        else:
            assert len(store.samples) == PICTURES


def require_finished(extractions, arguments, cache: Path, expected: dict[str, bytes]) -> None:
    [ending] = extractions.run(Run(arguments))
    assert ending.code == 0, ending.err
    assert Path(ending.out.strip()).is_relative_to(cache)
    found = files_of(cache)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    shutil.rmtree(cache)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGKILL], [signal.SIGTERM, signal.SIGINT]],
    ids=["killed", "asked to end"],
)
def test_killed_at_random_moments(extractions, arguments, undisturbed, tmp_path, signals):
    expected, duration = undisturbed
    schedule = random.Random(f"{SEED} {signals[0].name}")
    print(f"\n{MOMENTS} moments of the {duration:.3f} s of processor time of an undisturbed run")
    print("moment   signal   code  shards  after the same command")
    states = set()
    for attempt in range(MOMENTS):
        number = signals[attempt % len(signals)]
        moment = schedule.uniform(0, duration)
        cache = tmp_path / f"cache{attempt}"
        cache.mkdir()
        [ending] = extractions.run(Run(arguments(cache), moment=moment, signal=number))
        # No two runs take quite the same time: the last moments may come too late.
        assert ending.code in CODES[number] | ({0} if moment > duration / 2 else set()), ending.err
        assert "Traceback" not in ending.err
        written = shards_written(cache)
        states.add(written)
        require_complete_or_refused(cache)
        require_finished(extractions, arguments(cache), cache, expected)
        print(f"{moment:.3f} s  {number.name:8} {ending.code:4} {written:7}  equal, byte for byte")
    # Shards of so small a set are written one right after the other; test_faults.py stops between.
    assert len(states) > 1, "the schedule has met stores with none, and with some or all shards"


TILED_PICTURES = {"train": 2, "valid": 1, "test": 1}
TILES_OF_SIZE = {(260, 300): 4, (500, 200): 3}


@pytest.mark.slow
def test_an_extraction_in_tiles_killed_at_random_moments(extractions, golden, tmp_path):
    dataset = write_dataset(tmp_path / "noisy", TILED_PICTURES, sizes=list(TILES_OF_SIZE))
    weights = golden / "tiny_vit_openai.pt"
    command = ("extract", dataset, "--arch", "CLIP:from-file", "--weights", weights)

    def run(cache: Path, **changes: Any) -> Ending:
        options = ("--tiles", "224", "--batch-size", 2, "--cache", cache)
        [ending] = extractions.run(Run(tuple(map(str, (*command, *options))), **changes))
        return ending

    seconds = [run(tmp_path / f"undisturbed{number}").seconds for number in range(3)]
    expected, duration = files_of(tmp_path / "undisturbed0"), sorted(seconds)[1]
    schedule = random.Random(f"{SEED} tiles")
    states = set()
    print(f"\n{MOMENTS} moments of the {duration:.3f} s of an undisturbed run in tiles")
    for attempt in range(MOMENTS):
        moment = schedule.uniform(0, duration)
        cache = tmp_path / f"cache{attempt}"
        ending = run(cache, moment=moment, signal=signal.SIGKILL)
        assert ending.code in {-signal.SIGKILL} | ({0} if moment > duration / 2 else set())
        written = shards_written(cache)
        states.add(written)
        for folder in cache.glob("*/*/*"):
            try:
                assert len(Store(folder)) == 14
            except StoreError as error:
                require_no_store(error)
        ending = run(cache)
        assert ending.code == 0, ending.err
        assert files_of(cache) == expected
        shutil.rmtree(cache)
        print(f"{moment:.3f} s  {written:2} of 7 shards, then equal, byte for byte")
    assert len(states) > 1, "the schedule has met stores with none, and with some or all shards"


@pytest.mark.slow
def test_killed_again_and_again_until_it_is_done(extractions, arguments, undisturbed, tmp_path):
    expected, duration = undisturbed
    schedule = random.Random(SEED)
    print(f"\nthe same store killed again and again, {duration:.3f} s undisturbed")
    cache = tmp_path / "cache"
    cache.mkdir()
    for _ in range(200):
        number = schedule.choice(list(CODES))
        moment = schedule.uniform(0, duration)
        before = shards_written(cache)
        [ending] = extractions.run(Run(arguments(cache), moment=moment, signal=number))
        after = shards_written(cache)
        print(f"{moment:.3f} s {number.name:8} {ending.code:5} {before} -> {after} shards")
        assert ending.code in CODES[number] | {0}, ending.err
        assert after >= before, "no work is lost"
        require_complete_or_refused(cache)
        if ending.code == 0:
            break
    assert ending.code == 0
    require_finished(extractions, arguments(cache), cache, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "last", "message"),
    [
        ("worker dies", PICTURES, "internal error, RuntimeError: a worker died"),
        ("disk full", 45, "no space left to write"),
    ],
)
def test_a_fault_inside(extractions, arguments, undisturbed, tmp_path, fault, last, message):
    expected, _ = undisturbed
    schedule = random.Random(f"{SEED} {fault}")
    print(f"\n{fault}")
    for place in sorted(schedule.sample(range(1, last + 1), 5)):
        cache = tmp_path / f"cache{place}"
        cache.mkdir()
        run = Run(arguments(cache), fault=fault, fault_number=place)
        [ending] = extractions.run(run)
        lines = [line for line in ending.err.splitlines() if line.startswith("declip-pipe: ")]
        assert (ending.code, len(lines)) == (1, 1), ending.err
        assert message in lines[0]
        assert ending.out == ""
        assert [name for name in files_of(cache) if "partial" in name] == []
        written = shards_written(cache)
        require_complete_or_refused(cache)
        require_finished(extractions, arguments(cache), cache, expected)
        print(f"at {place:2}: {written} shards, then equal, byte for byte")
