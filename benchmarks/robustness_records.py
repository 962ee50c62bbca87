"""Damaged stores, HDF5 files and runs: what reads them must refuse, or end as on undamaged ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from robustness_children import Case, Ended
from robustness_mutations import (
    copied,
    damage_file,
    damaged_bytes,
    damaged_json,
    damaged_lines,
    damaged_state,
    damaged_table,
    damaged_tensors,
    damaged_yaml,
    rewrite,
)
from robustness_results import Result, differences, folder_result, run_result, shown_text
from robustness_results import store_result as read_store
from robustness_world import ARCH, TRAINING, World


@dataclass(frozen=True)
class Play:
    """A command on a case's own copies of the world's parts."""

    world: World
    case: Case

    def place(self, name: str) -> Path:
        """Return the case's copy of a store, run or file."""
        return self.case.folder / self.world.places.get(name, name)

    def run(self, *arguments: object, reports: bool = False) -> Ended | None:
        """Run the program; None unless it says that it is done."""
        ended = self.case.run(*arguments, reports=reports)
        return ended if ended.is_done else None

    def new(self, name: str) -> Path:
        """Return a place for outputs."""
        return self.case.folder / "out" / name


Scenario = Callable[[Play], Result | None]
"""Runs a command and returns what came of it, None where it was refused."""


def _printed(play: Play, *arguments: object, reports: bool = False) -> Result | None:
    ended = play.run(*arguments, reports=reports)
    return None if ended is None else {"stdout": shown_text(ended.out, play.case.folder)}


def _listed(play: Play) -> Result | None:
    """Return what `cache ls` prints of the stores that it can read, and what it says of others."""
    ended = play.run("cache", "ls", play.case.folder / "cache")
    if ended is None:
        return None
    found = {"stdout": shown_text(ended.out, play.case.folder)}
    return found | ({"stderr": ended.err} if ended.err else {})


def _without_sizes(found: Result) -> Result:
    """Leave out the lines that tell what is on the disk."""
    kept = [
        line for line in found["stdout"].splitlines() if not line.startswith(("size", "records"))
    ]
    return {**found, "stdout": "\n".join(kept)}


def _read(play: Play, name: str) -> Result | None:
    found: Result | None = play.case.call(lambda: read_store(play.place(name)))
    return found


def _trained(play: Play, name: str) -> Result | None:
    options = (*TRAINING, "--epochs", 1, "--feature-layer", "layer1", "-o", play.new("runs"))
    ended = play.run("train", play.place(name), *options)
    return None if ended is None else run_result(ended.last_line)


def _evaluated(play: Play, run: str, store: str, *more: object) -> Result | None:
    ended = play.run("evaluate", play.place(run), "--on", play.place(store), *more)
    return None if ended is None else folder_result(play.place(run) / "evaluations")


def _exported(play: Play) -> Result | None:
    file = play.new("again.h5")
    file.parent.mkdir()
    ended = play.run("cache", "export", play.place("store"), file)
    return None if ended is None else read_store(file)


def _stored(play: Play, *arguments: object) -> Result | None:
    """Return what a reader sees of the store whose path a command prints."""
    ended = play.run(*arguments)
    return None if ended is None else read_store(ended.last_line)


def _extracted(play: Play) -> Result | None:
    return _stored(
        play,
        *("extract", play.world.data, *ARCH, "--layers", "layer1,layer2", "--batch-size", 4),
        *("--cache", play.case.folder / "cache"),
    )


def _grown(play: Play) -> Result | None:
    return _stored(
        play,
        *("extract", play.world.data, *ARCH, "--layers", "layer1,layer2,layer3"),
        *("--cache", play.case.folder / "cache", "--batch-size", 4),
    )


def _repaired(play: Play) -> Result | None:
    command = ("cache", "verify", play.place("store"), "--repair")
    ended = play.run(*command, reports=True)
    return None if ended is None else read_store(play.place("store"))


def _predicted(play: Play, run: str) -> Result | None:
    out = play.new("predictions")
    images = play.world.data / "fake" / "lama" / "images" / "test"
    ended = play.run("predict", play.place(run), "-i", images, "-o", out)
    if ended is None:
        return None
    found = folder_result(out)
    # Its first line has a hash of the checkpoint's file.
    return {name: each for name, each in found.items() if name != "predictions.jsonl"}


def _trained_on(play: Play, run: str, *more: object) -> Result | None:
    """Give the same command again for a run that is there, finished or half trained."""
    folder = play.place(run).parent
    options = (*TRAINING, "--feature-layer", "layer1", *more, "-o", folder)
    ended = play.run("train", play.world.path("store"), *options)
    return None if ended is None else run_result(ended.last_line)


def _checkpoint(play: Play, run: str) -> Result | None:
    import torch

    file = play.new("published.pth")
    file.parent.mkdir()
    ended = play.run("export", play.place(run), "--checkpoint", file)
    if ended is None:
        return None
    found = torch.load(file, weights_only=True)
    return {"tensors": repr([(k, v.tolist()) for k, v in sorted(found["model"].items())])}


def _compared(play: Play) -> Result | None:
    stores = ("--on", play.world.path("store"))
    return _printed(play, "compare", play.place("run"), play.place("other run"), *stores)


STORES: Mapping[str, Scenario] = {
    "info": lambda play: _printed(play, "cache", "info", play.place("store")),
    "ls": _listed,
    "verify": lambda play: (
        _printed(play, "cache", "verify", play.place("store"), reports=True) and {"stdout": "ok"}
    ),
    "verify deep": lambda play: (
        _printed(play, "cache", "verify", play.place("store"), "--deep", reports=True)
        and folder_result(play.place("store"))
    ),
    "repair": _repaired,
    "read": lambda play: _read(play, "store"),
    "train": lambda play: _trained(play, "store"),
    "evaluate": lambda play: _evaluated(play, "run", "store"),
    "export": _exported,
    "prune": lambda play: _stored(
        play, "cache", "prune", play.place("store"), "--layers", "layer2"
    ),
    "compare stores": lambda play: (
        _printed(play, "cache", "compare", play.place("store"), play.place("small store")) and {}
    ),
    "extract": _extracted,
    "grow": _grown,
}
FILES: Mapping[str, Scenario] = {
    "file read": lambda play: _read(play, "store.h5"),
    "file train": lambda play: _trained(play, "store.h5"),
    "file evaluate": lambda play: _evaluated(play, "run", "store.h5"),
    "import": lambda play: _stored(
        play, "cache", "import", play.place("store.h5"), "--cache", play.new("cache")
    ),
}
RUNS: Mapping[str, Scenario] = {
    "runs ls": lambda play: _printed(play, "runs", "ls", play.case.folder / "runs", "--json"),
    "predict": lambda play: _predicted(play, "run"),
    "evaluate run": lambda play: _evaluated(play, "run", "store"),
    "evaluate detection": lambda play: _evaluated(play, "detection run", "store", "--detection"),
    "train again": lambda play: _trained_on(play, "run", "--train-on", "lama"),
    "go on training": lambda play: _trained_on(play, "half run", "--epochs", 3, "--seed", 2),
    "export checkpoint": lambda play: _checkpoint(play, "conv run"),
    "compare runs": _compared,
}
_STRUCTURED: Mapping[str, Callable[[bytes, Random], tuple[bytes, str]]] = {
    ".json": damaged_json,
    ".yaml": damaged_yaml,
    ".jsonl": damaged_lines,
    ".safetensors": damaged_tensors,
    ".pt": damaged_state,
}
SCENARIOS = {**STORES, **FILES, **RUNS}
_TARGETS = {
    "evaluate detection": "detection run",
    "go on training": "half run",
    "export checkpoint": "conv run",
}


def copy_parts(world: World, case: Case, name: str) -> None:
    """Copy what a scenario reads and may change."""
    parts = {"cache"} if name in STORES else {"store.h5"} if name in FILES else {"runs"}
    if "evaluate" in name:
        parts |= {"runs", *(("cache",) if name not in FILES else ())}
    for part in parts:
        copied(world.root / part, case.folder / part)


def undamaged(world: World, case: Case, name: str) -> Result:
    """Return the result of a scenario where nothing is damaged."""
    copy_parts(world, case, name)
    found = SCENARIOS[name](Play(world, case))
    assert found is not None and case.outcome == "right", (name, case)
    return found


def damaged_store(world: World, case: Case) -> None:
    """Damage a file of a store: shards, records, ledger, metadata; and read it.

    Right is the result of the undamaged store: all arrays that a reader sees, the run that a
    training makes of them, the evaluation's files, the text of `cache info` and `cache ls`. After
    `verify --deep` says ok, every file must be what it was. `verify` without it may miss what
    leaves a shard's length as it was.
    """
    name = case.random.choice(sorted(STORES))
    copy_parts(world, case, name)
    store = case.folder / world.places["store"]
    files = sorted(path for path in store.rglob("*") if path.is_file())
    shards = [path for path in files if path.name.startswith("c.")]
    records = [path for path in files if path not in shards and path.name != "zarr.json"]
    records += [store / "zarr.json"] * 3
    file = case.random.choice(case.random.choice((files, shards, records)))
    before = folder_result(store)
    sealed = _damage(case, file, files, store)
    found = _result(world, case, name)
    if found is None or sealed:
        return
    expected = dict(world.baselines[name])
    if name == "verify":
        changed = differences(folder_result(store), before)
        in_shards = not changed or all(
            Path(one).name.startswith("c.")
            and (store / one).is_file()
            and (store / one).stat().st_size == (world.path("store") / one).stat().st_size
            for one in changed.split(", ")
        )
        case.expect(in_shards, f"verify says ok, and {changed} changed")
        return
    if name in ("info", "ls") and file in shards:
        return  # they tell of records, and of sizes
    if name == "ls" and str(store) in found.get("stderr", ""):
        return  # the damaged store is named, the others are listed
    if name == "info":
        expected, found = _without_sizes(expected), _without_sizes(found)
    _compare(case, found, expected)


def _damage(case: Case, file: Path, files: list[Path], folder: Path) -> bool:
    """Damage a file of a store; return whether the completion was made to fit what came of it."""
    chance, shown = case.random.random(), file.relative_to(folder).as_posix()
    if chance < 0.25:
        like = [one for one in files if one.suffix == file.suffix and one.name[:2] == file.name[:2]]
        beside = [one for one in like if one.parent == file.parent]
        like = beside if len(beside) > 1 and case.random.random() < 0.7 else like
        case.note(f"{shown}: {damage_file(file, case.random, like)}")
        return False
    structured = {".json": damaged_json, ".parquet": damaged_table}
    if file.suffix in structured and chance < 0.8:
        data, change = structured[file.suffix](file.read_bytes(), case.random)
    else:
        other = case.random.choice([one for one in files if one.is_file()]).read_bytes()
        data, change = damaged_bytes(file.read_bytes(), case.random, other)
    case.note(f"{shown}: {change}")
    rewrite(file, data)
    if not file.name.startswith("c.") and shown != "complete.json" and case.random.random() < 0.4:
        from support.damaged_store import seal_metadata

        try:
            seal_metadata(folder)
        except Exception:
            return False  # what cannot be read cannot be sealed
        case.note("complete.json made to fit")
        return True
    return False


def damaged_hdf5(world: World, case: Case) -> None:
    """Damage an exported store's bytes, attributes, datasets or records, and read it.

    Right is the result of the undamaged file: all arrays that a reader sees, the run, the
    evaluation, the store that `import` makes of it.
    """
    name = case.random.choice(sorted(FILES))
    copy_parts(world, case, name)
    file = case.folder / "store.h5"
    if case.random.random() < 0.45:
        case.note(f"store.h5: {_damage_hdf5(file, case)}")
    elif case.random.random() < 0.08:
        case.note(f"store.h5: {damage_file(file, case.random, [])}")
    else:
        other = (world.root / "small.h5").read_bytes()
        data, change = damaged_bytes(file.read_bytes(), case.random, other)
        case.note(f"store.h5: {change}")
        rewrite(file, data)
    found = _result(world, case, name)
    if found is not None:
        _compare(case, found, world.baselines[name])


def _damage_hdf5(path: Path, case: Case) -> str:
    import h5py
    import numpy as np

    random = case.random
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, one: names.append(name) if hasattr(one, "dtype") else None)
        name = random.choice(sorted(names))
        dataset = file[name]
        way = random.choice(
            ("remove", "attribute", "type", "shape", "exchange", "exchange", "bomb")
        )
        if way == "remove":
            del file[name]
        elif way == "attribute":
            value = random.choice((2, 4, "3", 3.5, b"x", [3, 3], 2**40))
            file.attrs["declip_pipe_store"] = value
            return f"its version is {value!r}"
        elif way == "exchange":
            others = [one for one in sorted(names) if one != name]
            like = [one for one in others if file[one].shape == dataset.shape]
            other = random.choice(like or others)
            file.move(name, "for a moment")
            file.move(other, name)
            file.move("for a moment", other)
            name += f" and {other}"
        else:
            content, shape = dataset[()], dataset.shape
            del file[name]
            if way == "type":
                kind = random.choice(("f4", "f8", "i8", "u1", "S4", "i2"))
                with np.errstate(all="ignore"):
                    file[name] = np.zeros(shape, kind) if kind == "S4" else content.astype(kind)
                name += f" {kind}"
            elif way == "shape":
                file[name] = content[:-1]
            else:
                huge = (10**9, *shape[1:])
                file.create_dataset(name, huge, content.dtype, chunks=(1, *shape[1:]))
    return f"{way} {name}"


def damaged_run(world: World, case: Case) -> None:
    """Damage a file of a run: configuration, summary, state, history, weights, evaluations.

    Right is the result of the undamaged run: predictions, the evaluation's files, the run that the
    same `train` command ends with, the tensors of an exported checkpoint, the lines of `compare`
    and `runs ls`.
    """
    name = case.random.choice(sorted(RUNS))
    copy_parts(world, case, name)
    run = case.folder / world.places[_TARGETS.get(name, "run")]
    files = sorted(path for path in run.rglob("*") if path.is_file())
    file = case.random.choice(files)
    shown, chance = file.relative_to(run).as_posix(), case.random.random()
    if chance < 0.2:
        like = [one for one in (case.folder / "runs").rglob(file.name) if one.is_file()]
        case.note(f"{shown}: {damage_file(file, case.random, sorted(like))}")
    else:
        data = file.read_bytes()
        structured = _STRUCTURED.get(file.suffix) if chance < 0.7 else None
        data, change = (structured or damaged_bytes)(data, case.random)
        case.note(f"{shown}: {change}")
        rewrite(file, data)
    found = _result(world, case, name)
    if found is None:
        return
    if name == "runs ls":
        # What is damaged is a row that says so.
        same = found == world.baselines[name] or '"problem": "' in found["stdout"]
        case.expect(same or file.name == "environment.json", "another list, and no problem named")
        return
    _compare(case, found, world.baselines[name])


def _result(world: World, case: Case, name: str) -> Result | None:
    """Play a scenario; results that the library refuses to read were refused in time."""
    found: Result | None = case.call(lambda: SCENARIOS[name](Play(world, case)))
    return found


def _compare(case: Case, found: Result, expected: Result) -> None:
    names = differences(found, expected)
    if names == "stdout":
        old, new = (result["stdout"].splitlines() for result in (expected, found))
        names = " | ".join([*(f"-{one}" for one in old if one not in new)][:4]
                           + [f"+{one}" for one in new if one not in old][:4])  # fmt: skip
    case.expect(not names, f"{' '.join(case.commands[-1:])} is done, and differs in: {names}")
