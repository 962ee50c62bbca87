"""The trainings of a grid as plain values: what any process needs to train them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Annotated, Any

from declip_pipeline.decoders.names import TAKERS_OF_WIDTHS, read_decoder_type
from declip_pipeline.errors import InputError
from declip_pipeline.options import (
    Field,
    FusionMode,
    Option,
    PrecisionName,
    RecipeName,
    described_fields,
)
from declip_pipeline.training.recipe import Recipe

PAPER = Recipe()


@dataclass(frozen=True)
class GridJob:
    """Trainings from the same stores with the same options, one or many.

    Args:
        stores: Their locations.
        recipe: The recipe of every cell, except for what the cell says.
        beside: Locations of other backbones' stores, each with a layer.
        chosen: Fields of the recipe that are chosen for each cell, see `recipe_defaults`.
        device: A name that `choose_device` takes.
        uncached: As in `TrainingData`.
        name: Name of the folder of a single run; a grid's is its folder of runs.
        runs: Location of the folder that holds the runs.
    """

    stores: tuple[str, ...]
    runs: Annotated[str, Option("Folder that holds the runs.", "output", form="RUNS")] = "runs"
    recipe: Recipe = PAPER
    precision: Annotated[
        PrecisionName,
        Option(
            "Of the decoder's forward and backward pass. auto is bfloat16 where the device "
            "computes in it and the decoder is not linear; float32 is the reference.",
            "machine",
        ),
    ] = "auto"
    beside: Annotated[
        tuple[tuple[str, str], ...],
        Option(
            "A layer of another backbone's store of the same images, which every decoder gets "
            "as well, resampled to the finest grid; of whole views beside tiles, at each tile's "
            "place; repeatable.",
            "data",
            form="STORE:LAYER",
            expected="STORE:LAYER, as in cache/...:layer3",
        ),
    ] = ()
    fusion: Annotated[
        FusionMode,
        Option(
            "How several layers are joined: channels side by side, or a sum with learned weights.",
            "decoder",
        ),
    ] = "concat"
    recipe_name: Annotated[
        RecipeName,
        Option(
            "Values of the training options that are not given: with auto those that suit the "
            "decoder and the number of training images, with paper the published ones.",
            "training",
        ),
    ] = "auto"
    chosen: tuple[str, ...] = ()
    device: Annotated[
        str,
        Option(
            "Where to compute; auto takes CUDA where there is one.",
            "machine",
            choices=("auto", "cpu", "cuda"),
        ),
    ] = "auto"
    name: Annotated[
        str | None,
        Option(
            "Name of the run's folder in RUNS, or of a grid's, which then holds its table and its "
            "runs. Default: made out of what the run is.",
            "output",
            form="NAME",
        ),
    ] = None
    tensorboard: Annotated[
        bool,
        Option("Also log to RUN/tensorboard (pip install 'declip-pipe[tensorboard]').", "output"),
    ] = False
    uncached: Annotated[
        bool,
        Option(
            "Read the stores' images and compute their features again in every epoch, unrounded: "
            "slow, the reference for what a cache saves.",
            "data",
        ),
    ] = False

    def widths_of(self, decoder_type: str) -> tuple[int, ...] | None:
        """Return the widths of a decoder of the grid: those of the recipe, where it takes them."""
        widths = self.recipe.widths
        return widths if widths and read_decoder_type(decoder_type).takes(widths) else None

    def require_widths_taken(self, decoder_types: Iterable[str]) -> None:
        """Raise `InputError` for widths that fit none of a grid's decoders."""
        kinds = [read_decoder_type(name) for name in dict.fromkeys(decoder_types)]
        widths = self.recipe.widths
        if widths is None or any(kind.takes(widths) for kind in kinds):
            return
        given = f"`widths={','.join(map(str, widths))}`"
        takers = [kind for kind in kinds if kind.takes_widths]
        if not takers:
            raise InputError(
                f"{given} are for {TAKERS_OF_WIDTHS}, and there is only {kinds[0].name}; leave "
                "them out or choose one of these"
            )
        expected = "; ".join(f"{kind.described_widths} for {kind.name}" for kind in takers)
        raise InputError(f"{given} are {len(widths)}; expected {expected}")

    @classmethod
    def of(cls, stores: Sequence[str], options: Mapping[str, Any]) -> "GridJob":
        """Make a job of flat options, each named as a field of the job or of its recipe."""
        own = {name for name in options if name in {field.name for field in fields(cls)}}
        recipe = Recipe(**{name: value for name, value in options.items() if name not in own})
        return cls(tuple(stores), recipe=recipe, **{name: options[name] for name in own})


@dataclass(frozen=True)
class Cell:
    """One training of a grid.

    Args:
        layer: One layer, or several to join ("layer8+layer14").
        train_on: The generators to learn, None for all.
    """

    layer: Annotated[
        str,
        Option(
            "Layer to decode, such as layer20 (the paper's for ViT-L/14), or several that are "
            "joined, layer8+layer14; comma-separated, a grid: names, numbers (0-23), all.",
            "main",
            several=True,
        ),
    ]
    decoder_type: str
    seed: int
    learning_rate: float
    train_on: Annotated[
        tuple[str, ...] | None,
        Option(
            "Generators to learn from, comma-separated; given again, another training set of a "
            "grid. Default: all together.",
            "main",
            several=True,
        ),
    ]


def grid_cells(
    layers: Sequence[str],
    decoder_types: Sequence[str],
    seeds: Sequence[int],
    learning_rates: Sequence[float],
    train_sets: Sequence[tuple[str, ...] | None],
) -> list[Cell]:
    """Return every combination, those that read the same rows of the same layer in a row.

    Raises `InputError` for a value that is given twice.
    """
    axes = (train_sets, layers, decoder_types, learning_rates, seeds)
    for values in axes:
        repeated = next((value for value in values if list(values).count(value) > 1), None)
        if repeated is not None:
            raise InputError(f"{repeated!r} is given twice; give each value of a grid once")
    return [
        Cell(layer, decoder_type, seed, learning_rate, train_on)
        for train_on, layer, decoder_type, learning_rate, seed in product(*axes)
    ]


def training_fields() -> dict[str, Field]:
    """Every option of a training by name: of the job, its recipe and its cells."""
    found = [*described_fields(Recipe), *described_fields(GridJob), *described_fields(Cell)]
    return {field.name: field for field in found}
