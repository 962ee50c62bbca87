"""Runs against views of the same pictures: what compression, blur and the like cost."""

import csv
import io
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.figures import Figures
from declip_pipeline.evaluation.localization import METRICS
from declip_pipeline.files import write_text
from declip_pipeline.images.views import CLEAN, View, view_named
from declip_pipeline.store.identity import parts_of
from declip_pipeline.store.reader import Store
from declip_pipeline.store.view_stores import find_view_stores, folder_of
from declip_pipeline.sweeps.cross_evaluation import Evaluation
from declip_pipeline.sweeps.seed_groups import seed_groups
from declip_pipeline.training.run_folder import RunFolder

OVERALL = "overall"
FAMILIES = ("jpeg", "blur", "resize", "noise", "jitter")


def view_text(view: View) -> str:
    """A view as `--views` takes it: clean, jpeg:70, blur:1."""
    return "+".join(f"{kind}:{value:g}" for kind, value in view.steps) or CLEAN


def family_of(view: View) -> tuple[str, float] | None:
    """The kind and strength of a view of one change; None for clean, chained and random ones."""
    if len(view.steps) != 1:
        return None
    kind, strength = view.steps[0]
    return None if strength is None else (kind, strength)


def mild_to_strong(view: View) -> tuple[int, float]:
    """Sorts views: clean, then family by family with growing harm, then chains."""
    if not view.steps:
        return -1, 0.0
    family = family_of(view)
    if family is None:
        return len(FAMILIES), 0.0
    kind, strength = family
    # A small JPEG quality harms much, and a resize the more, the further it is from 1.
    harm = {"jpeg": -strength, "resize": abs(math.log(strength))}.get(kind, strength)
    return FAMILIES.index(kind), harm


def open_views(
    store: Store, views: Sequence[View] | None, runs: Sequence[RunFolder], beside: Sequence[Store]
) -> list[tuple[View, Store, list[Store]]]:
    """The stores of views of a clean store's pictures, the clean one first, and those beside each.

    views: None for all that there are, but random ones, which are for training.
    Raises `InputError` for a store that is not clean or a single file, and for views that are not
    there, with the command that makes them.
    """
    if store.identity.view != CLEAN:
        raise InputError(
            f"{store.location} is of the view {store.identity.view}; expected the clean store, "
            "other views are looked for beside it"
        )
    needed = {
        part["layer"]
        for run in runs
        for part in parts_of(run.best_decoder()[1])
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
    return [(view, opened[view], [_beside(one, view) for one in beside]) for view in views]


def write_robustness(path: Path, judged: Sequence[tuple[View, Evaluation]]) -> None:
    """Write a CSV file, whole or not at all: a row for each view and generator, with intervals."""
    ends = ("", "_low", "_high")
    names = [f"{metric}{end}" for metric in METRICS for end in ends]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["view", "family", "strength", "generator", "images", *names])
    for view, evaluation in judged:
        family, strength = family_of(view) or ("", "")
        for generator, figures in named_figures(evaluation.figures, evaluation.overall).items():
            values = ["" if figures[name] is None else figures[name] for name in names]
            about = [view_text(view), family, strength, generator, figures["images"]]
            writer.writerow([*about, *values])
    write_text(path, content.getvalue())


def named_figures(figures: Mapping[str, Figures], overall: Figures) -> dict[str, Figures]:
    """Figures by generator and, of several, of all pictures as "overall"."""
    return dict(figures) if len(figures) == 1 else {**figures, OVERALL: overall}


def views_over_seeds(
    judged: Iterable[Sequence[tuple[View, Evaluation]]],
) -> list[list[tuple[View, list[Evaluation]]]]:
    """Evaluations on views, those of runs that differ in their seed only together.

    `judged` are those of one run each, all on the views of one store. What has one seed is left
    out.
    """
    by_view: dict[View, list[Evaluation]] = {}
    for found in judged:
        for view, evaluation in found:
            by_view.setdefault(view, []).append(evaluation)
    # Of the same runs on the same pictures, so that they are in the same order in every view.
    groups_of = [seed_groups(evaluations) for evaluations in by_view.values()]
    return [
        list(zip(by_view, groups, strict=True))
        for groups in zip(*groups_of, strict=True)
        if len(groups[0]) > 1
    ]


def _beside(store: Store, view: View) -> Store:
    """The store of a view of another backbone's store; all of that one's layers are asked for."""
    if store.identity.view == view.name:
        return store
    location = find_view_stores(store, store.layers).get(view.name)
    if location is None:
        raise _missing(store, store.layers, [view])
    return Store(location)


def _missing(store: Store, layers: Collection[str], views: Sequence[View]) -> InputError:
    texts = [view_text(view) for view in views]
    made, identity = store.provenance, store.identity
    weights = [word for file in made.get("weights") or () for word in ("--weights", str(file))]
    command = [
        *("declip-pipe", "extract", str(made.get("root", "DATA"))),
        *("--arch", str(made.get("arch", identity.backbone)), *weights),
        *("--layers", ",".join(name for name in store.layers if name in layers)),
        # Of other splits it would be another set of pictures.
        *("--split", ",".join(store.splits)),
        *("--dtype", identity.dtype, "--precision", identity.precision),
        *("--cache", folder_of(store.location, 3), "--views", ",".join(texts)),
    ]
    return InputError(
        f"no complete store of the view {' or '.join(texts)} beside {store.location}; make it as "
        f"that one was made, with `{shlex.join(command)}`"
    )
