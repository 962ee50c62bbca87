"""Commands that runs were made by, as typed in a shell, from what their folders record."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.store.reader import Store

# Axes of a grid that runs of one command differ in.
_AXES = ("train_on", "seed")

ALL_GENERATORS = "_all_seed"
"""Part of the name of a run on all generators together."""


def commands_of(evaluations: "Sequence[Evaluation]", stores: "Sequence[Store]") -> list[str]:
    """Return the commands that make stores, train runs and evaluate them.

    Runs that differ in training set and seed alone are one command. Imported runs have none of
    their training, and maps of other tools none that makes them.
    """
    import shlex

    from declip_pipeline.evaluation.groups import MEMBERS
    from declip_pipeline.store.command import extraction_command

    found = [extraction_command(store) for store in stores]
    places = {store.identity.sha256: store.location for store in stores}
    configs: dict[Path, Mapping[str, Any]] = {}
    on: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for one in evaluations:
        if one.runs:
            members = one.config.get(MEMBERS, [one.config])
            configs |= zip(one.runs, members, strict=True)
        source, how = _typed(one)
        for store in one.stores:
            others = [place for place in dict.fromkeys(store.inputs) if place != store.location]
            options = [part for place in others for part in ("--beside", place)]
            options += ["--detection"] if one.task == "detection" else []
            options += [] if one.split == "test" else ["--split", one.split]
            on.setdefault(("--on", store.location, *options, *how), []).append(source)
    found += _trainings(configs, places)
    for options_of, sources in on.items():
        typed = [part for source in dict.fromkeys(sources) for part in source]
        found.append(shlex.join(["declip-pipe", "evaluate", *typed, *options_of]))
    return found


def _typed(one: "Evaluation") -> tuple[tuple[str, ...], list[str]]:
    """Return what an evaluation is of as it is typed, and the options of how maps are read."""
    from declip_pipeline.evaluation.groups import MAPS
    from stages.map_sources import JOIN

    if one.runs:
        return (JOIN.join(map(str, one.runs)),), []
    config = one.config
    learned = f":{JOIN.join(config['train_on'])}" if config["train_on"] else ""
    how = [] if config["maps_are"] == "probabilities" else ["--maps-are", config["maps_are"]]
    how += ["--resize-maps"] if config["resize_maps"] else []
    how += ["--maps-key", config["maps_key"]] if config["maps_key"] is not None else []
    return ("--maps", f"{config[MAPS]}{learned}={config['folder']}"), how


def _trainings(configs: Mapping[Path, Mapping[str, Any]], places: Mapping[str, str]) -> list[str]:
    """Return the commands of runs, by their folders."""
    from declip_pipeline.files import sha256_of_json

    groups: dict[str, list[tuple[dict[str, Any], list[str]]]] = {}
    for folder, config in configs.items():
        if config.get("stores") is None or config.get("seed") is None:
            continue  # imported
        options = _options(config)
        if ALL_GENERATORS in folder.name:
            # The default, which other names of the same generators would be another folder of.
            options["train_on"] = []
        source = config["stores"][0]
        where = [places.get(sha256, f"STORE-{sha256[:12]}") for sha256 in source]
        rest = {name: value for name, value in options.items() if name not in _AXES}
        groups.setdefault(sha256_of_json([rest, where]), []).append((options, where))
    return [command for group in groups.values() for command in _of_group(group)]


def _of_group(group: Sequence[tuple[dict[str, Any], list[str]]]) -> list[str]:
    """Return one command for a full grid of training sets and seeds, else one for each run."""
    from declip_pipeline.study.steps import TrainingStep
    from stages.study_screen import command_of

    runs = [[tuple(options[name]) for name in _AXES] for options, _ in group]
    axes = [list(dict.fromkeys(values)) for values in zip(*runs, strict=True)]
    there = set(map(tuple, runs))
    # All generators together are no value of an option that others could stand beside.
    if there == set(product(*axes)) and (() not in axes[0] or len(axes[0]) == 1):
        options, where = group[0]
        joined = {
            name: [value for one in values for value in one]
            for name, values in zip(_AXES, axes, strict=True)
        }
        return [command_of(TrainingStep(tuple(where), {**options, **joined}))]
    return [command_of(TrainingStep(tuple(where), options)) for options, where in group]


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options as a training takes them; of those of a grid, lists."""
    from stages.training_options import option_fields

    found: dict[str, Any] = {}
    for name, field in option_fields().items():
        value = config.get(name)
        if value is None or field.option.group == "output":
            continue
        value = tuple(value) if isinstance(value, list) else value
        found[name] = [value] if field.option.several else value
    return found
