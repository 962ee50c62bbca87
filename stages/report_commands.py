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

    Runs that differ in training set and seed alone are one command. Of imported runs, ensembles and
    maps of other tools there is none.
    """
    import shlex

    from declip_pipeline.store.command import extraction_command

    found = [extraction_command(store) for store in stores]
    places = {store.identity.sha256: store.location for store in stores}
    evaluations = [one for one in evaluations if one.is_of_run]
    found += _trainings({one.run: one.config for one in evaluations}, places)
    on: dict[tuple[str, str, str], list[str]] = {}
    for one in evaluations:
        for store in one.stores:
            on.setdefault((store.location, one.task, one.split), []).append(str(one.run))
    for (location, task, split), runs in on.items():
        detection = ["--detection"] if task == "detection" else []
        options = [*detection, *(() if split == "test" else ("--split", split))]
        found.append(
            shlex.join(
                ["declip-pipe", "evaluate", *dict.fromkeys(runs), "--on", location, *options]
            )
        )
    return found


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
    from declip_pipeline.study.study import TrainingStep
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
