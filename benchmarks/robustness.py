"""Damaged inputs and kills: how often a wrong result is accepted, or an error is no clear one.

python benchmarks/robustness.py [--part mutations|kills|all] [--cases 10000] [--kills 1000]
    [--minutes M] [--seed 0] [--only KIND,KIND] [--processes 2] [--folder DIR]

Mutations: a file, a folder or a command line is damaged by a seeded change, and the commands that
read it are run on it, each case in a forked child. A case is right where the result is the one
that its kind's function says (`damaged_image` and so on), and a clear refusal where the exit code
is 1 or 2 and the last line on stderr is the only one that begins "declip-pipe: ". Kills: see
`robustness_kills.py`.

Finished cases are in mutations.jsonl and kills.jsonl of `--folder`: a second start with the same
seed goes on. `--only KIND --case N` plays one case again, keeps its folder and prints all of it.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from reporting import report
from robustness_children import GOOD, OUTCOMES, Case, play_all
from robustness_datasets import damaged_list, damaged_tree
from robustness_images import damaged_image, damaged_mask
from robustness_records import SCENARIOS, damaged_hdf5, damaged_run, damaged_store, undamaged
from robustness_results import digest
from robustness_settings import (
    damaged_checkpoint,
    damaged_settings,
    damaged_study,
    damaged_weights,
    random_command,
)
from robustness_world import ROWS_PER_SHARD, WEIGHTS, World, make_stores, write_files
from support.forked_extraction import prepare  # robustness_world has put tests/ on the path

Kind = Callable[[World, Case], None]
KINDS: dict[str, tuple[Kind, int]] = {
    **{
        f"{name} images": (partial(damaged_image, name=name), share)
        for name, share in (
            *(("PNG", 6), ("JPEG", 6), ("TIFF", 8), ("WebP", 4), ("BMP", 3), ("GIF", 4)),
            ("other", 4),
        )
    },
    "masks": (damaged_mask, 5),
    "lists": (damaged_list, 6),
    "trees": (damaged_tree, 8),
    "stores": (damaged_store, 18),
    "HDF5 files": (damaged_hdf5, 7),
    "runs": (damaged_run, 10),
    "weights": (damaged_weights, 3),
    "checkpoints": (damaged_checkpoint, 3),
    "settings": (damaged_settings, 4),
    "studies": (damaged_study, 1),
    "command lines": (random_command, 10),
}
"""Kinds of input: what plays a case, and how many of a hundred cases it gets."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--part", choices=("mutations", "kills", "all"), default="all")
    arguments.add_argument("--cases", type=int, default=10_000)
    arguments.add_argument("--kills", type=int, default=1000)
    arguments.add_argument("--minutes", type=float, default=None, help="of each part, at most")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--only",
        default=None,
        help="kinds or commands that have one of these texts in their names, comma-separated",
    )
    arguments.add_argument("--case", type=int, default=None, help="with --only: its number")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    options = arguments.parse_args()
    # Inputs name models that would be looked for in the network.
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="robustness") as temporary:
        folder = Path(temporary) if options.folder is None else options.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.part in ("mutations", "all"):
            mutations(folder, options)
        if options.part in ("kills", "all") and options.case is None:
            from robustness_kills import kills

            kills(folder, options)


def mutations(folder: Path, options: argparse.Namespace) -> None:
    """Play the cases that are not in the log yet, and report all that are."""
    prepare(str(WEIGHTS), ROWS_PER_SHARD)
    world = made_world(folder, is_prepared=True)
    kinds = chosen(options.only, KINDS)
    if options.case is not None:
        _play_one(world, kinds[0], options, folder)
        return
    log = folder / f"mutations-{options.seed}.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    jobs = _jobs(kinds, options.cases, {(one["kind"], one["case"]) for one in done})
    limit = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    jobs = (job for job in jobs if limit is None or time.monotonic() < limit)
    started = time.monotonic()
    with log.open("a") as file:
        for (kind, number), ending in play_all(
            jobs,
            lambda job, case: KINDS[job[0]][0](world, case),
            partial(_case, seed=options.seed),
            folder / "cases",
            options.processes,
        ):
            ending["details"] = [text[-3000:] for text in ending["details"]]
            done.append({"kind": kind, "case": number, **ending})
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    done = [one for one in done if one["kind"] in kinds]
    rows = [_row(kind, [one for one in done if one["kind"] == kind]) for kind in kinds]
    rows = [row for row in rows if row["cases"]]
    rows.append(_row("all", done))
    report("robustness_mutations", rows, {"seed": options.seed, "cases": len(done)})
    for one in done:
        if one["outcome"] not in GOOD:
            print(f"{one['outcome']}: --only {one['kind']!r} --case {one['case']}: {one['change']}")


def chosen(only: str | None, names: Iterable[str]) -> list[str]:
    """Return the names that hold one of the texts in `only`, comma-separated; all without."""
    texts = [""] if only is None else only.split(",")
    return [name for name in names if any(text in name for text in texts)]


def _row(kind: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(one["outcome"] for one in cases)
    return {
        "kind": kind,
        "cases": len(cases),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "seconds": round(sum(one["seconds"] for one in cases), 1),
    }


def _jobs(kinds: list[str], count: int, done: set[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Yield kinds in turns, each as often as its share asks for, with the number of the case."""
    total = sum(KINDS[kind][1] for kind in kinds)
    numbers = Counter[str]()
    for place in range(1, count + 1):
        # The kind that is furthest behind its share.
        kind = max(kinds, key=lambda kind: place * KINDS[kind][1] / total - numbers[kind])
        job = (kind, numbers[kind])
        numbers[kind] += 1
        if job not in done:
            yield job


def _case(job: tuple[str, int], folder: Path, seed: int) -> Case:
    return Case(folder, Random(f"{seed} {job[0]} {job[1]}"))


def made_world(folder: Path, is_prepared: bool = False) -> World:
    """Return the undamaged inputs and their results, which are made where they are not there.

    Raises `SystemExit` where they were made by other code: the log would be that of two programs.
    """
    world = World(folder / "world")
    stamp = folder / "code"
    if stamp.exists() and stamp.read_text() != _code():
        raise SystemExit(f"{folder} was made with other code; name a new folder")
    if (world.root / "baselines.json").exists():
        return world
    if not is_prepared:
        prepare(str(WEIGHTS), ROWS_PER_SHARD)
    stamp.write_text(_code())
    shutil.rmtree(world.root, ignore_errors=True)
    write_files(world)
    work: dict[str, Callable[[Case], Any]] = {"stores": partial(make_stores, world)}
    _play_whole(work, folder / "making")
    names: dict[str, Callable[[Case], Any]] = {
        name: lambda case, name=name: (world.root / f"baseline {name}.json").write_text(
            json.dumps(undamaged(world, case, name))
        )
        for name in SCENARIOS
    }
    _play_whole(names, folder / "making")
    found = {
        name: json.loads((world.root / f"baseline {name}.json").read_text()) for name in SCENARIOS
    }
    (world.root / "baselines.json").write_text(json.dumps(found))
    return world


def _code() -> str:
    """Return a digest of the program's sources and of these."""
    import declip_pipeline
    import stages

    packages = [Path(str(package.__file__)).parent for package in (declip_pipeline, stages)]
    files = [file for package in packages for file in package.rglob("*.py")]
    files += Path(__file__).parent.glob("robustness*.py")
    return digest(b"".join(file.read_bytes() for file in sorted(files)))


def _play_whole(work: dict[str, Callable[[Case], Any]], folder: Path) -> None:
    """Play what has to succeed."""
    for name, ending in play_all(
        iter(work),
        lambda name, case: work[name](case),
        lambda name, place: Case(place, Random(name)),
        folder,
        2,
    ):
        if ending["outcome"] != "right":
            raise SystemExit(f"{name}: " + "\n".join([*ending["commands"], *ending["details"]]))


def _play_one(world: World, kind: str, options: argparse.Namespace, folder: Path) -> None:
    kept = folder / "one"
    jobs = iter([(kind, options.case)])
    for _, ending in play_all(
        jobs,
        lambda job, case: KINDS[job[0]][0](world, case),
        partial(_case, seed=options.seed),
        kept,
        1,
    ):
        for name, value in ending.items():
            print(f"{name}: {value if not isinstance(value, list) else ''}")
            if isinstance(value, list):
                print("\n".join(value))


if __name__ == "__main__":
    main()
