"""Robustness: runs on other views of the same images, such as JPEG compression and blur."""

import csv
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from declip_pipeline.datasets.labelled import LabelledImages, OtherView
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import seed_groups
from declip_pipeline.evaluation.ensemble import as_map_source
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import OVERALL, Evaluation, in_common
from declip_pipeline.evaluation.groups import Group
from declip_pipeline.evaluation.intervals import Figures, localization_figures
from declip_pipeline.evaluation.map_source import MapSource
from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
from declip_pipeline.evaluation.scores import Progress
from declip_pipeline.evaluation.selection import ImagesLike, Selection, as_images
from declip_pipeline.files import write_text
from declip_pipeline.images.views import CLEAN, View, view_named
from declip_pipeline.store.catalog import find_view_stores
from declip_pipeline.store.command import extraction_command
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.training.learning import MARK
from declip_pipeline.training.run import RunLike

FAMILIES = ("jpeg", "blur", "resize", "noise", "jitter")


@dataclass(frozen=True)
class OpenedView:
    """The store of a view, and the stores of the same view beside it; of maps, their images."""

    view: View
    store: LabelledImages
    beside: tuple[Store, ...]


@dataclass(frozen=True)
class Robustness:
    """One run on several views of a store's images.

    Attributes:
        views: Views and evaluations of the images that all views have, the clean view first.
        complete: The evaluations of all images of each view.
        left_out: Number of images that some view lacks.
    """

    views: tuple[tuple[View, Evaluation], ...]
    complete: tuple[Evaluation, ...]
    left_out: int

    def save(self, path: Path) -> None:
        """Write a CSV file with a row for each view and generator, whole or not at all.

        The column `mark` has "!" where the run learned nothing.
        """
        ends = ("", "_low", "_high")
        names = [f"{metric}{end}" for metric in LOCALIZATION_METRICS for end in ends]
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(["view", "family", "strength", "generator", "images", *names, "mark"])
        for view, evaluation in self.views:
            family, strength = family_of(view) or ("", "")
            for generator, figures in named_figures([evaluation]).items():
                values = ["" if figures[name] is None else figures[name] for name in names]
                about = [view_text(view), family, strength, generator, figures["images"]]
                mark = MARK if evaluation.problem else ""
                writer.writerow([*about, *values, mark])
        write_text(path, content.getvalue())


def evaluate_views(
    run: RunLike | MapSource,
    store: ImagesLike,
    views: Sequence[View] | None = None,
    *,
    split: str = "test",
    generators: Sequence[str] | None = None,
    beside: Sequence[StoreLike] = (),
    batch_size: int = 64,
    device: str | torch.device = "auto",
    progress: Progress = lambda done, total: None,
    opened: Sequence[OpenedView] | None = None,
) -> Robustness:
    """Evaluate a run on views of a clean store's images, over the images that all views have.

    Args:
        run: The run, or its folder; or another source of maps.
        store: The clean store; other views are looked for beside it. Maps of no run need no other
            stores: those of a view lie in a folder of its name.
        views: Views to evaluate, clean besides; None takes all that are stored.
        split: Split to evaluate.
        generators: Generators to evaluate; None takes all of the store.
        beside: Clean stores of the same images for decoders that take features of several stores.
        batch_size: Images a step.
        device: Where to compute.
        progress: Called with numbers of views: done and all.
        opened: What `open_views` returned, where it was called before.

    Raises:
        InputError: For views that are not stored, with the command that makes them.
    """
    source = as_map_source(run)
    if opened is None:
        (images,) = as_images(store)
        opened = open_views(images, views, [source], [as_store(one) for one in beside])
    found = []
    for number, one in enumerate(opened):
        progress(number, len(opened))
        found.append(
            evaluate(
                source.at_view(one.view),
                one.store,
                split=split,
                generators=generators,
                beside=one.beside,
                batch_size=batch_size,
                device=device,
            )
        )
    progress(len(opened), len(opened))
    same, left_out = in_common(found)
    pairs = zip((one.view for one in opened), same, strict=True)
    return Robustness(tuple(pairs), tuple(found), left_out)


def check_views(
    sources: Sequence[MapSource],
    opened: Sequence[OpenedView],
    *,
    split: str,
    generators: Sequence[str] | None,
) -> None:
    """Check that maps can be evaluated on every view, before the first are."""
    for one in opened:
        selection = Selection([one.store], split=split, generators=generators, beside=one.beside)
        for source in sources:
            selection.check(source.at_view(one.view))


def over_seeds(
    found: Sequence[Robustness],
) -> list[tuple[Group[Evaluation], list[tuple[View, dict[str, Figures]]]]]:
    """Return figures by view of runs that differ in their seed alone, of several.

    Args:
        found: Robustness of runs on the same views of one store. Figures are over the images that
            all of them have.
    """
    # Of several runs, over the same images in every view.
    same, _ = in_common([evaluation for one in found for _, evaluation in one.views])
    remaining = iter(same)
    by_view: dict[View, list[Evaluation]] = {}
    for one in found:
        for view, _ in one.views:
            by_view.setdefault(view, []).append(next(remaining))
    # The same runs are in the same order in every view.
    groups_of = [seed_groups(evaluations) for evaluations in by_view.values()]
    return [
        (
            groups[0],
            [
                (view, named_figures(group.members))
                for view, group in zip(by_view, groups, strict=True)
            ],
        )
        for groups in zip(*groups_of, strict=True)
        if len(groups[0].members) > 1
    ]


def named_figures(seeds: Sequence[Evaluation]) -> dict[str, Figures]:
    """Return figures by generator and, of several generators, of all images as "overall"."""
    names = seeds[0].generators
    if len(names) == 1:
        return {names[0]: _figures(seeds, None)}
    figures = {name: _figures(seeds, name) for name in names}
    return {**figures, OVERALL: _figures(seeds, None)}


def _figures(seeds: Sequence[Evaluation], generator: str | None) -> Figures:
    if len(seeds) == 1:
        return seeds[0].figures(generator)
    return localization_figures([one if generator is None else one.of(generator) for one in seeds])


def view_text(view: View) -> str:
    """Return a view as text: clean, jpeg:70, blur:1."""
    return "+".join(f"{kind}:{value:g}" for kind, value in view.steps) or CLEAN


def family_of(view: View) -> tuple[str, float] | None:
    """Return the kind and strength of a view of one change; None for clean, chained and random."""
    if len(view.steps) != 1:
        return None
    kind, strength = view.steps[0]
    return None if strength is None else (kind, strength)


def mild_to_strong(view: View) -> tuple[int, float]:
    """Return a key that sorts views: clean, then each family from mild to strong, then chains."""
    if not view.steps:
        return -1, 0.0
    family = family_of(view)
    if family is None:
        return len(FAMILIES), 0.0
    kind, strength = family
    # A low JPEG quality is strong, and so is a resize far from 1.
    harm = {"jpeg": -strength, "resize": abs(math.log(strength))}.get(kind, strength)
    return FAMILIES.index(kind), harm


def open_views(
    store: LabelledImages,
    views: Sequence[View] | None,
    sources: Sequence[MapSource],
    beside: Sequence[Store],
) -> list[OpenedView]:
    """Open the stores of views of a clean store's images, the clean one first.

    Args:
        store: The clean store, or clean images.
        views: Views; None takes all that are stored, without random ones, which are for training;
            of maps of no run, all that the first source has a folder of.
        sources: What to evaluate: the stores must have the layers of its runs.
        beside: Clean stores for decoders that take features of several stores.

    Raises:
        InputError: For a store that is not clean or a single file, and for views that are not
            stored, with the command that makes them.
    """
    if store.view != CLEAN:
        raise InputError(
            f"{store.location} is of the view {store.view}; expected the clean store, "
            "other views are looked for beside it"
        )
    if sources and not any(source.features for source in sources):
        views = [view for source in sources for view in source.views] if views is None else views
        views = sorted(dict.fromkeys([View(), *views]), key=mild_to_strong)
        return [
            OpenedView(one, OtherView(store, one.name) if one.steps else store, ()) for one in views
        ]
    if not isinstance(store, Store):
        raise InputError(
            f"{store.location} is a dataset, and a run needs the features of its images; give "
            "the store that `declip-pipe extract` made of it"
        )
    needed = {
        part["layer"]
        for source in sources
        for part in source.features
        if part["layer"] in store.layers and part["weights_sha256"] == store.identity.weights_sha256
    }
    found = find_view_stores(store, needed)
    if views is None:
        views = [view for view in map(view_named, found) if view.seed is None]
        if len(views) == 1:
            raise _missing(store, needed, [View((("jpeg", 70.0),)), View((("blur", 1.0),))])
    views = sorted(dict.fromkeys([View(), *views]), key=mild_to_strong)
    missing = [view for view in views if view.name not in found]
    if missing:
        raise _missing(store, needed, missing)
    opened = {view: store if not view.steps else Store(found[view.name]) for view in views}
    return [
        OpenedView(view, opened[view], tuple(_beside(one, view) for one in beside))
        for view in views
    ]


def _beside(store: Store, view: View) -> Store:
    """Return the store of a view of another backbone's store, with all layers of that one."""
    if store.identity.view == view.name:
        return store
    location = find_view_stores(store, store.layers).get(view.name)
    if location is None:
        raise _missing(store, store.layers, [view])
    return Store(location)


def _missing(store: Store, layers: Collection[str], views: Sequence[View]) -> InputError:
    texts = [view_text(view) for view in views]
    command = extraction_command(store, layers=layers, views=texts)
    return InputError(
        f"no complete store of the view {' or '.join(texts)} beside {store.location}; make it as "
        f"that one was made, with `{command}`"
    )
