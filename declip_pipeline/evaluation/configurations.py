"""Configurations of runs: cells that belong together, and names that tell them apart."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from declip_pipeline.evaluation.cells import DOMAIN, Cell
from declip_pipeline.evaluation.groups import MAPS, TRAINING, Group, field_text, group_by_fields
from declip_pipeline.files import sha256_of_json

TESTED = ("dataset", "generator")
"""Fields of what a run was tested on."""

IMPLIED = ("weights", "preprocessing", "widths", "ensemble", "maps_are", "maps_key")
"""Fields that follow from the method, or nearly so: no title needs them."""

PLACE = "folder"
"""Field of the folder of a tool's maps, which differs between the trainings of the tool."""

DERIVED = ("learned", "tested")
"""Fields that follow from others."""


def configurations(cells: Sequence[Cell]) -> list[Group[Cell]]:
    """Group cells whose runs differ in their seed and in what they learned alone.

    Runs come first. Maps of other tools have no fields of a training, which all runs would then
    differ in.
    """
    ignored = {*TESTED, *TRAINING, DOMAIN, *DERIVED, PLACE}
    kinds: tuple[list[Cell], list[Cell]] = ([], [])
    for cell in cells:
        kinds[MAPS in cell.seeds[0].config].append(cell)
    return [
        group
        for some in kinds
        for group in group_by_fields(some, lambda cell: cell.fields, ignored=ignored)
    ]


def labelled_cells(cells: Sequence[Cell], named: Collection[str]) -> list[Cell]:
    """Return cells whose `generator` and `train_on` are names that differ where they should.

    A generator is named with its dataset where another dataset has one of the same name, and so is
    what runs learned; trainings on different stores of a dataset are named by these. Maps that are
    called as a training is are told apart from it; of theirs no dataset is known, so that they
    name no run otherwise.
    """
    datasets: dict[str, set[str]] = {}
    trainings: dict[str, dict[str, dict[str, set[tuple[str, ...]]]]] = {}
    for cell in cells:
        one = cell.fields
        datasets.setdefault(one["generator"], set()).add(one["dataset"])
        of_names = trainings.setdefault("+".join(one["train_on"]), {})
        if MAPS in cell.seeds[0].config:
            continue
        of_features = of_names.setdefault(str(one["learned"]), {})
        of_features.setdefault(_features_of(one), set()).add(_stores_of(one))
    found = []
    for cell in cells:
        one = cell.fields
        generator, column = one["generator"], "+".join(one["train_on"]) or cell.seeds[0].method
        if len(datasets[generator]) > 1 and "dataset" not in named:
            generator = f"{one['dataset']}/{generator}"
        if not cell.learned and column in trainings:
            column += " (maps)"
        if MAPS not in cell.seeds[0].config:
            of_names = trainings["+".join(one["train_on"])]
            if len(of_names) > 1:
                keys = one["learned"]
                column = "+".join(f"{where}/{name}" if where else name for where, name in keys)
            # Other features come from other stores, and make no other training set.
            own_stores = of_names[str(one["learned"])][_features_of(one)]
            if len(own_stores) > 1 and "train_on" in named:
                column += f" ({field_text(_stores_of(one))})"
        fields = {**one, "generator": generator, "train_on": column}
        # As `is_in_domain` takes it.
        fields["tested"] = [one["dataset"], one["generator"]]
        found.append(replace(cell, fields=fields))
    return found


def _stores_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stores of a training, each once: layers of one store are no other training set."""

    def hashes_in(part: Any) -> Iterator[str]:
        """Yield hashes, of a layer, of several, or of an ensemble's members."""
        if isinstance(part, str):
            yield part
        else:
            for one in part or ():
                yield from hashes_in(one)

    return tuple(dict.fromkeys(hashes_in(fields.get("training_stores"))))


def _features_of(fields: Mapping[str, Any]) -> str:
    names = ("backbone", "weights", "preprocessing", "training_dtype")
    return sha256_of_json([fields.get(name) for name in names])
