"""Damaged weights, checkpoints and settings, and random command lines."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import yaml
from robustness_children import Case
from robustness_mutations import copied, damage_file, damaged_bytes, damaged_yaml
from robustness_results import digest
from robustness_world import ARCH, GRID, World


def damaged_weights(world: World, case: Case) -> None:
    """Damage a file of a backbone's weights, and extract or predict with it.

    Other numbers are other weights: right is a store whose `weights_sha256` is that of the
    undamaged file and whose features are, too, or one of another `weights_sha256`. A prediction
    takes no weights but those that the run was trained with.
    """
    source = case.random.choice(sorted((world.root / "weights").iterdir()))
    file = copied(source, case.folder / source.name)
    if case.random.random() < 0.1:
        case.note(f"{file.name}: {damage_file(file, case.random, [])}")
    else:
        data, change = damaged_bytes(file.read_bytes(), case.random)
        case.note(f"{file.name}: {change}")
        file.write_bytes(data)
    images = world.data / "real" / "test"
    chosen = ("--weights", file)
    if case.random.random() < 0.5:
        out = case.folder / "out"
        ended = case.run("predict", world.path("run"), "-i", images, "-o", out, *chosen)
        if ended.is_done:
            case.run("predict", world.path("run"), "-i", images, "-o", case.folder / "right")
            maps = [
                [digest(one.read_bytes()) for one in sorted(folder.glob("*_mask.png"))]
                for folder in (out, case.folder / "right")
            ]
            case.expect(maps[0] == maps[1], "other masks than with the undamaged weights")
        return
    command = ("extract", images, "--arch", "CLIP:from-file", "--layers", "layer1")
    ended = case.run(*command, *chosen, "--cache", case.folder / "cache")
    if ended.is_done:
        _check_weights(world, case, ended.last_line)


def _check_weights(world: World, case: Case, location: str) -> None:
    import numpy as np

    from declip_pipeline.store.reader import Store

    whole, store = Store(world.path("store")), Store(location)
    if store.identity.weights_sha256 != whole.identity.weights_sha256:
        return
    rows = {sample.image_sha256: row for row, sample in enumerate(whole.samples)}
    mine = np.arange(len(store))
    theirs = np.array([rows[sample.image_sha256] for sample in store.samples])
    found, right = (
        one.read_layer("layer1", which).decoded() for one, which in ((store, mine), (whole, theirs))
    )
    case.expect(np.allclose(found, right, atol=2e-3), "the same weights_sha256, other features")


def damaged_checkpoint(world: World, case: Case) -> None:
    """Damage a published checkpoint, and import it.

    Right is a run whose tensors are those that `torch.load(weights_only=True)` finds in the
    damaged file, or those of the undamaged one.
    """
    import torch

    source = world.root / "published.pth"
    file = copied(source, case.folder / "ViT_layer1_conv-4_lama.pth")
    if case.random.random() < 0.1:
        case.note(f"published.pth: {damage_file(file, case.random, [])}")
    else:
        data, change = damaged_bytes(file.read_bytes(), case.random)
        case.note(f"published.pth: {change}")
        file.write_bytes(data)
    ended = case.run("import-checkpoint", file, *ARCH, "-o", case.folder / "runs")
    if not ended.is_done:
        return
    from declip_pipeline.training.run import Run

    found = _tensors(Run(ended.last_line).decoder().state_dict())
    right = []
    for one in (file, source):
        try:
            right.append(_tensors(torch.load(one, weights_only=True)["model"]))
        except Exception:
            continue
    case.expect(found in right, "other tensors than in the file")


def _tensors(state: Any) -> list[str]:
    """Return digests of the tensors, whatever they are called."""
    return sorted(
        digest(value.contiguous().numpy().tobytes())
        for name, value in state.items()
        if hasattr(value, "numpy") and value.numel() > 1
    )


def damaged_settings(world: World, case: Case) -> None:
    """Damage the YAML of a grid, and train with it.

    Right are runs whose `config.yaml` has, of every key that YAML finds in the damaged file, one of
    the values given there; of the other keys the defaults.
    """
    file = copied(world.root / "grid.yaml", case.folder / "grid.yaml")
    _damage_settings(file, case)
    runs = case.folder / "runs"
    command = ("train", world.path("store"), "--config", file, "-o", runs, "--epochs", 1)
    ended = case.run(*command, "--batch-size", 2)
    if not ended.is_done:
        return
    try:
        given = yaml.safe_load(file.read_bytes())
    except yaml.YAMLError:
        given = GRID
    names = {
        "layers": "layer",
        "decoders": "decoder_type",
        "seeds": "seed",
        "learning_rate": "learning_rate",
    }
    configs = [yaml.safe_load(one.read_text()) for one in sorted(runs.glob("*/config.yaml"))]
    case.expect(bool(configs), "no run")
    for key, name in names.items():
        if not isinstance(given, dict) or given.get(key) is None:
            continue
        values = given[key] if isinstance(given[key], list) else [given[key]]
        wanted = {str(value) for value in values}
        found = {str(config[name]) for config in configs}
        same = wanted == found or _numbers(wanted) == _numbers(found) or wanted & {"all"}
        case.expect(bool(same), f"{key} is {sorted(wanted)}, the runs have {sorted(found)}")


def _numbers(texts: set[str]) -> list[float] | None:
    try:
        return sorted(
            float(part.removeprefix("layer")) for text in texts for part in text.split(",")
        )
    except ValueError:
        return None


def _damage_settings(file: Path, case: Case) -> None:
    if case.random.random() < 0.1:
        case.note(f"{file.name}: {damage_file(file, case.random, [])}")
        return
    way = damaged_yaml if case.random.random() < 0.7 else damaged_bytes
    data, change = way(file.read_bytes(), case.random)
    case.note(f"{file.name}: {change}")
    file.write_bytes(data)
    # Without a decoder it is the paper's, whose training alone takes longer than a hang.
    if b"decoders" not in data:
        file.write_bytes(data + b"\ndecoders: [linear]\n")


def damaged_study(world: World, case: Case) -> None:
    """Damage the YAML of a study, and reproduce it; done, it must print its table's place."""
    file = copied(world.root / "study.yaml", case.folder / "study.yaml")
    _damage_settings(file, case)
    ended = case.run(
        *("reproduce", file, "--data", f"made={world.data}", "--weights", ARCH[3]),
        *("--cache", case.folder / "cache", "--runs", case.folder / "runs"),
        *("--out", case.folder / "table"),
    )
    if ended.is_done:
        case.expect(Path(ended.last_line).is_file(), "no table")


VALUES = {
    "layers": ("all", "layer1", "0-1", "layer2,layer1", "layer9", "-1", "1-0", "layer1+layer2"),
    "views": ("clean", "jpeg:70", "blur:1.0", "jpeg:0", "noise:-1", "all", "blur:1+jpeg:50", "x:1"),
    "augment": ("jpeg:1", "jpeg+blur+jitter:2", "jpeg:-1", "x:1", "jpeg"),
    "weights": (ARCH[3], "random:0", "random:x", "/nowhere"),
    "arch": ("CLIP:from-file", "RN5O", "pixels:64", "pixels:0", "timm:nothing", ",", "CLIP:ViT"),
    "split": ("train", "valid,test", "tset", "all"),
    "generators": ("lama", "ldm,lama", "real", "nobody"),
    "train_on": ("lama", "ldm", "nobody", "real"),
    "decoders": ("linear", "attention", "probe", "probe-pca-4", "conv-3",
                 "json:loads", "os:x"),
    "assign_splits": ("80,10,10", "100,0,0", "-10,100,10", "a,b,c"),
    "widths": ("4,4,4,4", "0,4,4,4", "4,4,4", "4,4,4,99999999"),
    "seeds": ("0", "0,1", "-1", "99999999999999999999", "1,1"),
    "learning_rates": ("1e-3", "1e9", "0.1,0.2", "-1", "1e-400"),
    "alias": ("lama=ldm", "lama", "=", "a=b=c"),
    "beside": ("x:layer1", ":", "layer1"),
    "set": ("train.epochs=2", "train.layers=layer9", "extract.dtype=int8", "made.generators=[ldm]",
            "x=1", "train", "=", "train.epochs=[1"),
    "data": ("made=/nowhere", "made=", "other=/", "made"),
}  # fmt: skip
"""Values of options that are not numbers or choices."""
ANYTHING = (
    *("", " ", "0", "-1", "nan", "inf", "1e999", "9" * 30, "a" * 5000, "nowhere/at all", "pipe"),
    *("*", "[", "--", "-", "%s", "{}", "\n", "a,b,,c", "s3://", "http://x/y", "tcp://x", "\udcff"),
)
"""Values for any option."""
LEFT_OUT = {"--help", "--version", "--scheduler", "--dask", "--compile", "--onnx", "--check-on"}
"""Options that start other processes, wait for machines, compile, or trace a graph for 10 s."""


def random_command(world: World, case: Case) -> None:
    """Give a command on small valid data up to three options that are drawn from its own.

    There is no result to compare with; a command that is done must have printed or written it.
    """
    from support.commands import NAMES, command_of

    names = [name for name in NAMES if name not in ("demo", "app")]
    name = case.random.choice(names)
    arguments = _arguments(world, case)[name]
    options = [
        option
        for option in command_of(name).params
        if option.param_type_name == "option" and not LEFT_OUT & set(option.opts)
    ]
    drawn = case.random.sample(options, min(len(options), case.random.choice((0, 1, 1, 2, 3))))
    more = list(itertools.chain.from_iterable(_drawn(option, case) for option in drawn))
    if case.random.random() < 0.15:
        place = case.random.randrange(len(arguments) + 1)
        strange = case.random.choice(ANYTHING)
        arguments = [*arguments[:place], strange, *arguments[place + 1 :]]
    command = [*name.split(), *map(str, arguments), *more]
    case.note(" ".join(part[:60] for part in more) or "no option")
    ended = case.run(*command, reports=name in ("cache verify", "data check"))
    if ended.is_done and "-h" not in command:
        case.expect(bool(ended.out), "done, and nothing on stdout")


def _drawn(option: Any, case: Case) -> list[str]:
    random = case.random
    name = random.choice([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return [name]
    values: list[str] = []
    kind = str(getattr(option, "type_descriptor", getattr(option, "type", "")))
    choices = re.findall(r"'([^']+)'", kind) if "hoice" in kind or "Literal" in kind else []
    values += choices
    if "int" in kind.lower() or "float" in kind.lower():
        values += ["0", "1", "2", "3", "0.5", "-1", "1e-3", "1e308", "1000000"]
    for known, texts in VALUES.items():
        if f"--{known.replace('_', '-')}" in option.opts:
            values += texts
    if not values or random.random() < 0.25:
        values = list(ANYTHING)
    return [name, random.choice(values)]


def _arguments(world: World, case: Case) -> dict[str, list[Any]]:
    """Return arguments with which each command does its work, on copies where it changes them."""
    store, folder = world.path("store"), case.folder
    os.mkfifo(folder / "pipe")
    small = ["--feature-layer", "layer1", "--epochs", 1, "--batch-size", 2]
    images = world.data / "fake" / "lama" / "images" / "test"

    def own(name: str) -> Path:
        return copied(world.path(name), folder / world.places[name])

    def own_store() -> Path:
        own("small store")
        return own("store")

    drawn = {
        "extract": lambda: [world.data, *ARCH, "--layers", "layer1", "--cache", folder / "cache"],
        "train": lambda: [store, *small, "--decoder-type", "linear", "-o", folder / "runs"],
        "ablate": lambda: [store, "--epochs", 1, "--batch-size", 2, "-o", folder / "runs"],
        "evaluate": lambda: [own("run"), "--on", store],
        "compare": lambda: [own("run"), own("other run"), "--on", store],
        "predict": lambda: [world.path("run"), "-i", images, "-o", folder / "out"],
        "import-checkpoint": lambda: [world.root / "published.pth", *ARCH, "--feature-layer",
                                      "layer1", "-o", folder / "runs"],
        "export": lambda: [world.path("conv run"), "--checkpoint", folder / "x.pth"],
        "cache ls": lambda: [world.root / "cache"],
        "cache info": lambda: [store],
        "cache compare": lambda: [store, world.path("small store")],
        "cache prune": lambda: [own_store(), "--layers", "layer2"],
        "cache verify": lambda: [own_store()],
        "cache export": lambda: [store, folder / "x.h5"],
        "cache import": lambda: [world.root / "store.h5", "--cache", folder / "cache"],
        "data check": lambda: [world.data],
        "reproduce": lambda: [world.root / "study.yaml", "--data", f"made={world.data}",
                              "--weights", ARCH[3], "--cache", folder / "cache",
                              "--runs", folder / "runs", "--out", folder / "table"],
        "runs ls": lambda: [world.root / "runs"],
        "report": lambda: [own("run"), "--on", store, "--evaluate", "-o", folder / "page.html"],
        "cache show": lambda: [store, "-o", folder / "features"],
    }  # fmt: skip

    class OnDemand(dict[str, list[Any]]):
        def __missing__(self, name: str) -> list[Any]:
            return drawn[name]()

    return OnDemand()
