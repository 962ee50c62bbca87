"""Greedy forward choice of the layers to store, by validation scores alone."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from pathlib import Path
from statistics import fmean, stdev

from declip_pipeline.errors import InputError
from declip_pipeline.feeding.inputs import JOIN
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.store.reader import Store, as_store
from declip_pipeline.study.steps import TrainingStep
from declip_pipeline.study.study import Study
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.sweeps.grid_training import layers_of
from declip_pipeline.training.learning import MARK


@dataclass(frozen=True)
class LayerSet:
    """Layers that a decoder joins, and what its runs reached on the split `valid`.

    Attributes:
        layers: Names of the layers, in order of depth.
        rows: A row for each run: one for each training set and seed.
        bytes_per_row: Size of the layers' features of one image, or of one tile.
        total_bytes: Size of those of all rows of the stores.
    """

    layers: tuple[str, ...]
    rows: tuple[CellResult, ...]
    bytes_per_row: int
    total_bytes: int

    @property
    def name(self) -> str:
        """The layers as `train` takes them: "layer8+layer14"."""
        return JOIN.join(self.layers)

    @property
    def score(self) -> float | None:
        """Mean over the runs of their best validation IoU in percent; None where a run failed."""
        scores = [row.best_score for row in self.rows if row.state == "finished"]
        known = [score for score in scores if score is not None]
        return fmean(known) if len(known) == len(self.rows) else None

    @property
    def mark(self) -> str:
        """`MARK` behind the score where a run learned nothing, else empty."""
        return MARK if any(row.problem for row in self.rows) else ""


@dataclass(frozen=True)
class LayerRound:
    """Sets of one size that were tried.

    Attributes:
        sets: All sets of the round, in order of the layer that each adds.
    """

    sets: tuple[LayerSet, ...]

    @property
    def chosen(self) -> LayerSet | None:
        """Return the set with the best score, the first of equal ones; None if all failed."""
        known = [one for one in self.sets if one.score is not None]
        return max(known, key=lambda one: one.score or 0.0, default=None)


def choose_layers(study: Study, most: int) -> list[LayerRound]:
    """Train a decoder on every layer, then on sets of layers by greedy forward choice.

    The first round trains on single layers. Each further round joins the best set so far with
    every other layer. A set's score is the mean over its runs of the best validation IoU, each on
    the generators that the run learned: neither the test split nor another generator has a part in
    the choice. Finished runs are found again, and so is the choice.

    Args:
        study: Its only training names the layers; see `Study`.
        most: Most layers of a set; 1 trains on single layers alone.

    Returns:
        The rounds, `most` of them, or fewer where every set of a round has a run that failed.

    Raises:
        InputError: More layers than there are, or joined ones among those to choose from.
        DeclipError: What `Study.train` raises.

    Source: forward selection, Guyon and Elisseeff, An Introduction to Variable and Feature
    Selection (JMLR 3, 2003), section 4.2.
    """
    (step,) = study.trainings
    stores = [as_store(one) for one in step.stores]
    known = list(stores[0].layers)
    layers = layers_of(step.options["layer"], known)
    joined = [name for name in layers if JOIN in name]
    if most > 1 and joined:
        raise InputError(
            f"`greedy={most}` joins single layers itself, found {joined[0]}; name single layers, "
            "or leave `greedy` out"
        )
    if most > len(layers):
        raise InputError(
            f"`greedy={most}`, but there are {len(layers)} layers to choose from "
            f"({', '.join(layers)}); expected at most as many"
        )
    rounds = [_trained(study, stores, [tuple(name.split(JOIN)) for name in layers], 1)]
    while len(rounds) < most and (best := rounds[-1].chosen) is not None:
        sets = [
            tuple(sorted({*best.layers, name}, key=known.index))
            for name in layers
            if name not in best.layers
        ]
        rounds.append(_trained(study, stores, sets, len(rounds) + 1))
    return rounds


def path_of(rounds: Sequence[LayerRound]) -> list[LayerSet]:
    """Return the chosen set of each round, from one layer to several."""
    return [one.chosen for one in rounds if one.chosen is not None]


def gain(some: LayerSet, over: LayerSet) -> tuple[float, float]:
    """Return by how much a set's score is above another's, and the standard error of that.

    Both are of the differences between runs of the same training set, seed and learning rate; the
    error is NaN for a single run.
    """
    known = {_training(row): row.best_score or 0.0 for row in over.rows}
    differences = [(row.best_score or 0.0) - known[_training(row)] for row in some.rows]
    count = len(differences)
    error = stdev(differences) / sqrt(count) if count > 1 else nan
    return fmean(differences), error


def set_to_store(rounds: Sequence[LayerRound]) -> LayerSet | None:
    """Return the smallest set on the path that is not clearly worse than the best of them.

    That is one whose score is less than a standard error below the best; of a single run, the best
    one. None where every set has a run that failed.

    Source: the one standard error rule, Breiman et al., Classification and Regression Trees
    (1984), section 3.4.3.
    """
    path = path_of(rounds)
    best = max(path, key=lambda one: one.score or 0.0, default=None)
    for one in path:
        lost, error = gain(best or one, one)
        if one is best or lost <= error:
            return one
    return best


def _training(row: CellResult) -> tuple[str, int, float]:
    return row.train_on, row.seed, row.learning_rate


def write_layer_sets(path: Path, rounds: Sequence[LayerRound]) -> None:
    """Write a CSV file of all sets that were tried, whole or not at all."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    names = (
        "layers",
        "number",
        "chosen",
        "valid_iou",
        "mark",
        "runs",
        "bytes_per_row",
        "total_bytes",
    )
    writer.writerow(names)
    for one in rounds:
        for some in one.sets:
            is_chosen = "yes" if some is one.chosen else ""
            score = "" if some.score is None else some.score
            sizes = some.bytes_per_row, some.total_bytes
            row = (some.name, len(some.layers), is_chosen, score, some.mark, len(some.rows), *sizes)
            writer.writerow(row)
    remove_abandoned(path.parent)
    write_text(path, content.getvalue())


def _trained(
    study: Study, stores: Sequence[Store], sets: Sequence[tuple[str, ...]], number: int
) -> LayerRound:
    (step,) = study.trainings
    options = {**step.options, "layer": [JOIN.join(one) for one in sets]}
    if number == 1 and not options.get("beside") and all(len(one) == 1 for one in sets):
        options["fusion"] = "concat"  # of one layer there is no weighted sum
    if number > 1 and options.get("name") is not None:
        options["name"] = f"{options['name']}-{number}"
    trained = replace(
        study, trainings=(TrainingStep(step.stores, options, step.dask, step.scheduler),)
    ).train()
    return LayerRound(
        tuple(
            LayerSet(
                one,
                tuple(row for row in trained if row.layer == JOIN.join(one)),
                sum(stores[0].bytes_per_row(name) for name in one),
                sum(store.bytes_per_row(name) * len(store) for store in stores for name in one),
            )
            for one in sets
        )
    )
