"""Kills: a command is killed at a random instant, given again, and must end as if undisturbed.

Each command works in a folder of its own, alone or as two processes at once, of which one is killed
or both. Then the same command runs to its end, and every file of the folder is compared with what
an undisturbed run leaves: names, and bytes without the seconds that something took
(`robustness_results.without_times`). Files that a killed writer left are counted apart.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from reporting import report
from robustness_mutations import copied
from robustness_results import Result, differences, folder_result
from robustness_world import ARCH, ROWS_PER_SHARD, TRAINING, WEIGHTS, World

PARTIAL = ".partial"
Command = Callable[[Path], tuple[object, ...]]


@dataclass(frozen=True)
class Work:
    """A command that can be killed: what of the world it changes, and its arguments in a folder."""

    parts: tuple[str, ...]
    arguments: Command


def works(world: World) -> Mapping[str, Work]:
    """Return the commands by name."""
    store, runs = world.path("store"), [world.places[name] for name in ("run", "other run")]
    copy = world.places["store"]
    extraction = ("extract", world.data, *ARCH, "--batch-size", 2)
    training = ("train", store, *TRAINING)
    grid = ("--layers", "layer1,layer2", "--seeds", "0,1")
    conv = ("--decoder-type", "conv-4", "--widths", "8,8,4,4", "--feature-layer", "layer1")
    return {
        "extract": Work((), lambda place: (*extraction, "--cache", place / "cache")),
        "extract, growing": Work(
            ("cache",),
            lambda place: (*extraction, "--layers", "0-2", "--cache", place / "cache"),
        ),
        "train": Work(
            (), lambda place: (*training, *conv, "--epochs", 4, "-o", place / "runs")
        ),
        "grid": Work((), lambda place: (*training, *grid, "-o", place / "runs")),
        "evaluate": Work(
            ("runs",),
            lambda place: ("evaluate", *(place / one for one in runs), "--on", store),
        ),
        "predict": Work(
            (),
            lambda place: (
                *("predict", world.path("run"), "-i", world.data / "fake" / "lama" / "images"),
                *("-o", place / "predictions"),
            ),
        ),
        "cache import": Work(
            (),
            lambda place: ("cache", "import", world.root / "store.h5", "--cache", place / "cache"),
        ),
        "cache prune": Work(
            ("cache",),
            lambda place: ("cache", "prune", place / copy, "--layers", "layer2"),
        ),
        "cache export": Work(
            (), lambda place: ("cache", "export", store, place / "again.h5")
        ),
    }  # fmt: skip


def kills(folder: Path, options: argparse.Namespace) -> None:
    """Kill as often as asked for, less what the log has, and report all that was."""
    from robustness import chosen, made_world
    from support.forked_extraction import ForkedExtractions

    world = made_world(folder)
    log = folder / f"kills-{options.seed}.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    limit = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    names = chosen(options.only, works(world))
    program = ForkedExtractions(WEIGHTS, ROWS_PER_SHARD)
    started = time.monotonic()
    expected: dict[str, tuple[Result, float]] = {}
    with log.open("a") as file:
        for number in range(options.kills):
            if limit is not None and time.monotonic() > limit:
                break
            name = names[number % len(names)]
            if any((one["command"], one["number"]) == (name, number) for one in done):
                continue
            place = folder / "kill"
            if name not in expected:
                expected[name] = _undisturbed(program, world, name, place)
            random = Random(f"{options.seed} {name} {number}")
            found = _killed(program, world, name, place, random, expected[name])
            done.append({"command": name, "number": number, **found})
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    program.close()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    done = [one for one in done if one["command"] in names]
    rows = [
        _row(name, way, [one for one in done if (one["command"], one["way"]) == (name, way)])
        for name in names
        for way in ("alone", "two at once")
    ]
    rows = [row for row in rows if row["runs"]] + [_row("all", "", done)]
    report("robustness_kills", rows, {"seed": options.seed, "kills": rows[-1]["kills"]})
    for one in done:
        if one["differs"] or one["left"] or one["code"]:
            print(f"{one['command']} {one['number']}: {json.dumps(one)}")


def _row(name: str, way: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": name,
        "processes": way,
        "runs": len(found),
        "kills": sum(one["kills"] for one in found),
        "ended otherwise": sum(bool(one["code"]) for one in found),
        "different": sum(bool(one["differs"]) for one in found),
        "left over": sum(bool(one["left"]) for one in found),
        "seconds": round(sum(one["seconds"] for one in found), 1),
    }


def _begin(world: World, name: str, place: Path) -> tuple[str, ...]:
    """Empty the folder, copy what the command changes, and return its arguments."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    work = works(world)[name]
    for part in work.parts:
        copied(world.root / part, place / part)
    return tuple(map(str, work.arguments(place)))


def _undisturbed(program: Any, world: World, name: str, place: Path) -> tuple[Result, float]:
    """Return what the command leaves, and the processor time that it takes."""
    from support.forked_extraction import Run

    results, seconds = [], []
    for _ in range(3):
        arguments = _begin(world, name, place)
        [ending] = program.run(Run(arguments))
        if ending.code != 0:
            raise SystemExit(f"{name} undisturbed: {ending.err}")
        results.append(folder_result(place))
        seconds.append(ending.seconds)
    unequal = differences(results[0], results[1]) or differences(results[0], results[2])
    if unequal:
        raise SystemExit(f"{name} undisturbed is not the same each time: {unequal}")
    return results[0], sorted(seconds)[1]


def _killed(
    program: Any,
    world: World,
    name: str,
    place: Path,
    random: Random,
    expected: tuple[Result, float],
) -> dict[str, Any]:
    from support.forked_extraction import Run

    result, duration = expected
    started = time.monotonic()
    arguments = _begin(world, name, place)
    moment = random.uniform(0, duration)
    runs = [Run(arguments, moment=moment)]
    two = random.random() < 0.4
    if two:
        both = random.random() < 0.5
        other = random.uniform(0, duration) if both else None
        runs.append(Run(arguments, moment=other, delay=random.uniform(0, duration / 2)))
    endings = program.run(*runs)
    was_done = not differences(folder_result(place), result)
    [last] = program.run(Run(arguments))
    found = folder_result(place, with_partial=True)
    left = sorted(name for name in found if name.endswith(PARTIAL) or PARTIAL + "." in name)
    names = differences({n: each for n, each in found.items() if n not in left}, result)
    # What is done may be refused in a line: a store that was pruned, a file that is there.
    code = 0 if last.code in (1, 2) and was_done and not names else last.code
    return {
        "way": "two at once" if two else "alone",
        "moment": round(moment / duration, 3),
        "kills": sum(one.code == -9 for one in endings),
        "codes": [one.code for one in endings],
        "code": code,
        "differs": names,
        "left": left,
        "error": "" if last.code == 0 else last.err[-1500:],
        "errors": [one.err[-600:] for one in endings if one.code not in (0, -9)],
        "seconds": round(time.monotonic() - started, 2),
    }
