"""Train decoders on layers of stores: one with `train`, or several runs side by side."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from declip_pipeline.arguments import require_path
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.sample import FAKE, REAL
from declip_pipeline.decoders.factories import DecoderFactory, name_factory
from declip_pipeline.errors import DeclipError, InputError, UnknownNameError
from declip_pipeline.feeding.inputs import JOIN, DecoderInputs
from declip_pipeline.files import folder_name, sha256_of_json
from declip_pipeline.options import FusionMode, PrecisionName, RecipeName
from declip_pipeline.store.reader import Store, StoreLike, as_store, as_stores
from declip_pipeline.training.data import TrainingData, sources_beside
from declip_pipeline.training.epochs import real_count
from declip_pipeline.training.learner_choice import decoder_of, learner_of
from declip_pipeline.training.recipe import PLATEAU_EPOCHS, Recipe, choose_precision
from declip_pipeline.training.recipes import recipe_defaults
from declip_pipeline.training.run import Run, require_name
from declip_pipeline.training.side_by_side import train_side_by_side
from declip_pipeline.training.tile_choice import LEARNED_TILES
from declip_pipeline.training.train import Epoch, Training


def train(
    store: StoreLike | Sequence[StoreLike],
    *,
    layer: str | Sequence[str],
    decoder: str | DecoderFactory = "conv-20",
    train_on: str | Sequence[str] | None = None,
    beside: Sequence[tuple[StoreLike, str]] = (),
    fusion: FusionMode = "concat",
    runs: str | Path = "runs",
    name: str | None = None,
    device: str = "auto",
    precision: PrecisionName = "auto",
    tier: str = "auto",
    uncached: bool = False,
    progress: Callable[[Epoch], None] = lambda epoch: None,
    notice: Callable[[str], None] = lambda line: None,
    recipe: RecipeName = "auto",
    **options: Any,
) -> Run:
    """Train a decoder on the fakes of the split `train`.

    The split `valid` chooses the best epoch. A second call with the same arguments finds the run
    finished and returns it at once; an interrupted one goes on after its last epoch.

    Example:
        >>> run = train(store, layer="layer3", decoder="conv-4", epochs=20, learning_rate=2e-3)
        >>> run.best_score  # IoU in percent

    Args:
        store: A store or its location, or several that hold the same features.
        layer: Layer to decode, or several to join: "layer8+layer14" or a list.
        decoder: A name, such as "linear", "conv-20", "probe" or a registered one (another name
            raises an error that lists them), or a factory of one's own (see `DecoderFactory`).
        train_on: Generators to learn; None takes all.
        beside: Pairs of a store of the same images, made with another backbone, and one of its
            layers, which the decoder takes as well.
        fusion: How several layers are joined: "concat" or "weighted".
        runs: Folder that holds the runs.
        name: Name of the run's folder. None makes it out of what the run is.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Precision of the forward and backward pass: "float32", "bfloat16", or "auto",
            which is bfloat16 where the device computes in it and the decoder is not linear.
        tier: Where features are kept: "device", "memory", "stream" (read for every batch), or
            "auto" for the fastest place that they fit into.
        uncached: Compute the features from the images again in every epoch.
        progress: Called with each `Epoch`: `epoch`, `train_loss`, `valid_score` (percent),
            `learning_rate`, `seconds`.
        notice: Called with each line that a user should see, such as where features are kept.
        recipe: Values of the fields of `Recipe` that are not given: with "auto" those that suit the
            decoder and the number of training images, with "paper" the published ones.
        **options: Other fields of `Recipe`, such as `widths`, `epochs`, `batch_size`,
            `learning_rate`, `seed`, `initialization`, `decoder_options`. `pooling="mean"` trains
            detection, from labels of images instead of masks.

    Returns:
        The finished run.

    Raises:
        UnknownNameError: For a layer, decoder, generator, device or option that is not known.
        InputError: For a store without masks or without the splits `train` and `valid`, a batch
            larger than the first, and options that do not fit the decoder.
        DecoderError: For a decoder of one's own that does not keep the contract.
        IdentityMismatchError: For stores that hold different features.
        OutputExistsError: For a `name` that is the folder of another run.
        RunBusyError: While another process trains the same run.
        TrainingError: For a loss that is not finite, or too little memory.
    """
    known = [one.name for one in fields(Recipe) if one.name not in ("decoder_type", "precision")]
    for option in options:
        if option not in known:
            others = [name for name in signature(train).parameters if name != "options"]
            raise UnknownNameError("option of a training", option, [*others, *known])
    if isinstance(decoder, str):
        decoder_type = decoder
    else:
        decoder_type, keywords = name_factory(decoder)
        options["decoder_options"] = keywords | dict(options.get("decoder_options", {}))
    if isinstance(options.get("widths"), list):
        options["widths"] = tuple(options["widths"])
    layers = [layer] if isinstance(layer, str) else layer
    if not isinstance(layers, list | tuple) or not all(isinstance(one, str) for one in layers):
        raise InputError(f"`layer` is {layer!r}; expected the name of a layer, or several to join")
    for pair in beside:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"`beside` has {pair!r}; expected pairs of a store and a layer")
    require_path(runs, "the folder of runs")
    chosen = choose_device(device)
    if uncached and precision == "auto":
        precision = "float32"  # as published
    data = TrainingData(
        as_stores(store),
        beside=sources_beside((as_store(one), of) for one, of in beside),
        fusion=fusion,
        device=chosen,
        tier=tier,
        uncached=uncached,
        notice=notice,
    )
    options["precision"] = choose_precision(precision, decoder_type, chosen)
    learned = [train_on] if isinstance(train_on, str) else train_on
    if recipe != "paper":
        generators = tuple(sorted(set(learned or data.generators)))
        given = Recipe(decoder_type, **{"epochs": PLATEAU_EPOCHS, **options})
        images = images_of_epoch(data, generators, given)
        options = {**recipe_defaults(recipe, decoder_type, images, options), **options}
    planned = plan_run(
        data,
        Path(runs),
        layer=JOIN.join(layers),
        recipe=Recipe(decoder_type, **options),
        train_on=learned,
        name=name,
    )
    (error,) = train_runs(data, [planned], lambda number, epoch: progress(epoch))
    if error is not None:
        raise error
    return planned.folder


IOU_OF_TILES = "IoU of each image over all of its tiles together"
"""Meaning of `valid_iou` of a run on tiles; see `validation_ious`."""


@dataclass(frozen=True)
class PlannedRun:
    """A training that can be begun, or was: `folder` is named by what it is."""

    folder: Run
    inputs: DecoderInputs
    generators: tuple[str, ...]
    recipe: Recipe
    config: dict[str, Any]
    sha256: str


def plan_run(
    data: TrainingData,
    runs: Path,
    *,
    layer: str,
    recipe: Recipe,
    train_on: Sequence[str] | None = None,
    name: str | None = None,
) -> PlannedRun:
    """Plan the training of a decoder on the fakes of the `train` split, evaluated on `valid`.

    A recipe of detection takes the real images of both splits as well.

    `layer` names one layer or several to join ("layer8+layer14"); `train_on` the generators to
    learn, all of them where None. The run's folder under `runs` is called `name`, or by what the
    run is, so the same call finds its finished or unfinished self again.

    Raises `UnknownNameError` for a layer, decoder or generator that is not there, `InputError` for
    features that cannot be joined, stores without the two splits and batches larger than the first,
    `IdentityMismatchError` when the stores hold different features, `OutputExistsError` when
    `name` is the folder of another run.
    """
    inputs = data.inputs(layer)
    with torch.device("meta"):  # names and widths are checked, no memory is taken
        decoder_of(recipe, inputs.shapes, inputs.fusion)
    generators = tuple(sorted(set(train_on or data.generators)))
    for split in ("train", "valid"):
        data.rows(split, generators, recipe.targets, recipe.with_real > 0)
    pictures = images_of_epoch(data, generators, recipe)
    if recipe.batch_size > pictures:
        takes_real = recipe.targets == "labels" or recipe.with_real > 0
        names = [*generators, "real"] if takes_real else generators
        raise InputError(
            f"a batch of {recipe.batch_size} images is larger than the training split, which has "
            f"{pictures} of {', '.join(names)}; expected a part of it, take "
            f"`batch_size={pictures}` or less"
        )
    stores = {
        source: [source.store_of(store) for store in data.stores] for source in inputs.sources
    }
    identity = {
        "layer": layer,
        "train_on": list(generators),
        **recipe.to_json(),
        "features": inputs.features,
        "stores": [[store.identity.sha256 for store in stores[s]] for s in inputs.sources],
        **({"uncached": True} if data.uncached else {}),
        **_failures(data, generators, recipe),
    }
    sha256 = sha256_of_json(identity)
    learned = "all" if train_on is None else folder_name("+".join(generators))
    task = "" if recipe.pooling is None else f"detection-{recipe.pooling}_"
    own_name = (
        f"{task}{folder_name(recipe.decoder_type)}_{folder_name('+'.join(inputs.names))}_{learned}"
        f"_seed{recipe.seed}_{sha256[:12]}"
    )
    config = {
        **identity,
        # What a prediction must know: where each source's features come from.
        "inputs": [
            {
                "dtype": "float32" if data.uncached else stores[source][0].identity.dtype,
                "provenance": stores[source][0].provenance,
                **_tiles_of(stores[source][0]),
            }
            for source in inputs.sources
        ],
        "datasets": _learned_of(data, generators, recipe),
        **(
            {}
            if data.stores[0].tiling is None
            else {"learned": LEARNED_TILES, "validation": IOU_OF_TILES}
        ),
    }
    if recipe.pooling is not None or recipe.with_real:
        config["images"] = {
            split: data.counts(split, generators, recipe.targets, recipe.with_real > 0)
            for split in ("train", "valid")
        }
    if name is not None:
        require_name(name)
    folder = Run(runs / (name or own_name))
    if name is not None:
        folder.require(config, sha256)
    return PlannedRun(folder, inputs, generators, recipe, config, sha256)


def _tiles_of(store: Store) -> dict[str, str]:
    """Return the tiling of a store's rows, for a prediction; nothing for whole images."""
    return {} if store.identity.tiles is None else {"tiles": store.identity.tiles}


def images_of_epoch(data: TrainingData, generators: Sequence[str], recipe: Recipe) -> int:
    """Return the number of images of an epoch; real ones that are drawn twice count twice."""
    count = sum(len(rows) for _, rows in data.rows("train", generators, recipe.targets))
    return count + real_count(count, recipe.with_real)


def _failures(
    data: TrainingData, generators: Sequence[str], recipe: Recipe
) -> dict[str, list[dict[str, list[str]]]]:
    """Return the images of both splits that each store could not extract, if there are any.

    The same store may have been extracted with other failures; a run then learns from other
    images.
    """
    found = []
    for store in data.stores:
        failed = [store.samples[row] for row in sorted(store.failures)]
        learned = [
            sample
            for sample in failed
            if (sample.label == FAKE and sample.generator in generators)
            or (sample.label == REAL and (recipe.targets == "labels" or recipe.with_real > 0))
        ]
        found.append(
            {
                split: ids
                for split in ("train", "valid")
                if (ids := sorted(sample.id for sample in learned if sample.split == split))
            }
        )
    return {"failures": found} if any(found) else {}


def _learned_of(
    data: TrainingData, generators: Sequence[str], recipe: Recipe
) -> dict[str, list[str]]:
    """Return the generators learned of each dataset: of another dataset they are out of domain."""
    learned: dict[str, set[str]] = {}
    for store, _ in data.rows("train", generators, recipe.targets):
        learned.setdefault(store.dataset, set()).update(set(generators) & set(store.generators))
    return {dataset: sorted(names) for dataset, names in sorted(learned.items()) if names}


def train_runs(
    data: TrainingData,
    runs: Sequence[PlannedRun],
    on_epoch: Callable[[int, Epoch], None] = lambda number, epoch: None,
) -> list[DeclipError | None]:
    """Train runs side by side, or finish what was interrupted; what is finished is left alone.

    All have the same task, generators, seed, batch size and share of real images. `on_epoch` is
    told the number of the run. Returns for each None, or why it was not brought to its end:
    `RunBusyError` while another process trains it, `TrainingError`, `InputError` for a damaged run.
    """
    outcomes: list[DeclipError | None] = [None] * len(runs)
    unfinished = [number for number, run in enumerate(runs) if not run.folder.is_finished]
    for number in set(range(len(runs))) - set(unfinished):
        try:
            runs[number].folder.require_whole()
        except DeclipError as error:
            outcomes[number] = error
    if not unfinished:
        return outcomes
    with ExitStack() as locks:
        trainings: dict[int, Training] = {}
        for number in unfinished:
            try:
                run = runs[number]
                run.folder.begin(run.config, run.sha256)
                locks.enter_context(run.folder.exclusively())
                # Another process may have come to the end of it meanwhile.
                if not run.folder.is_finished:
                    trainings[number] = _begin(run, data, _of_run(on_epoch, number))
            except DeclipError as error:
                outcomes[number] = error
        if not trainings:
            return outcomes
        # Only now: who waits for other processes need not read what they train on.
        first = runs[unfinished[0]]
        feeds = data.feeds(
            [training.inputs for training in trainings.values()],
            first.generators,
            first.recipe.targets,
            first.recipe.with_real > 0,
        )
        score_feed = data.score_feed(
            [training.inputs for training in trainings.values()], first.generators
        )
        for threads in {one.learner.threads for one in trainings.values()}:
            some = [one for one in trainings.values() if one.learner.threads == threads]
            train_side_by_side(some, *feeds, score_feed)
        for number, training in trainings.items():
            outcomes[number] = training.error
    return outcomes


def train_run(
    data: TrainingData,
    runs: Path,
    *,
    layer: str,
    recipe: Recipe,
    train_on: Sequence[str] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Run:
    """Plan a run, train it and return its folder. Raises what `plan_run` and `train_runs` say."""
    run = plan_run(data, runs, layer=layer, recipe=recipe, train_on=train_on)
    (error,) = train_runs(data, [run], lambda number, epoch: on_epoch(epoch))
    if error is not None:
        raise error
    return run.folder


def _begin(run: PlannedRun, data: TrainingData, on_epoch: Callable[[Epoch], None]) -> Training:
    learner = learner_of(run.recipe, run.inputs.shapes, run.inputs.fusion, data.device)
    targets = run.recipe.targets
    return Training(
        run.folder,
        run.inputs,
        run.recipe,
        learner,
        on_epoch,
        constant_score=data.constant_score(run.generators, targets, run.recipe.with_real),
        train_images=images_of_epoch(data, run.generators, run.recipe),
        notice=data.notice,
    )


def _of_run(on_epoch: Callable[[int, Epoch], None], number: int) -> Callable[[Epoch], None]:
    return lambda epoch: on_epoch(number, epoch)
