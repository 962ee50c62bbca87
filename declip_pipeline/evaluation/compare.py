"""Compare two runs, or two groups of seeds, on the same images: differences with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.ensemble import as_map_source, distinct_sources
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import OVERALL, Evaluation, Image
from declip_pipeline.evaluation.groups import configured, group_by_fields, method_of
from declip_pipeline.evaluation.intervals import localization_values
from declip_pipeline.evaluation.map_source import MapSource
from declip_pipeline.evaluation.scores import METRICS, Progress
from declip_pipeline.evaluation.selection import ImagesLike, Selection, as_images
from declip_pipeline.metrics.bootstrap import Difference, paired_difference
from declip_pipeline.store.reader import Store, StoreLike, as_store, distinct_stores
from declip_pipeline.training.run import RunLike


@dataclass(frozen=True)
class ComparedMeans:
    """Means of one metric over the shared images of a generator, or of all of them ("overall").

    Attributes:
        generator: Name of the generator, or "overall".
        metric: One of `METRICS`; `iou` is in percent, the others are in [0, 1].
        images: Number of images.
        first: Mean of the first side.
        second: Mean of the second side.
        difference: The first mean less the second, with its interval and p-value.
    """

    generator: str
    metric: str
    images: int
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two sides, each a run or several seeds of it, on the same images.

    Attributes:
        means: Every metric by generator and, of several generators, overall.
        first: Evaluations of the first side.
        second: Evaluations of the second side.
        left_out: Number of each run's images that another run lacks, by the run's folder.
        repeated: Folders of runs and locations of stores that were given again; each is taken once.
    """

    means: tuple[ComparedMeans, ...]
    first: tuple[Evaluation, ...]
    second: tuple[Evaluation, ...]
    left_out: dict[Path, int]
    repeated: tuple[Path | str, ...] = ()


@dataclass(frozen=True)
class PlannedEvaluation:
    """A source of maps with the stores that it is evaluated on, and the stores beside them."""

    source: MapSource
    stores: tuple[LabelledImages, ...]
    beside: tuple[Store, ...]


def compare(
    first: RunLike | MapSource | Sequence[RunLike | MapSource],
    second: RunLike | MapSource | Sequence[RunLike | MapSource],
    stores: ImagesLike | Sequence[ImagesLike],
    *,
    split: str = "test",
    generators: Sequence[str] | None = None,
    beside: Sequence[StoreLike] = (),
    batch_size: int = 64,
    device: str | torch.device = "auto",
    reuse: bool = True,
    progress: Progress = lambda done, total: None,
    on_evaluation: Callable[[Evaluation], object] = lambda evaluation: None,
) -> Comparison:
    """Say by how much the first run is better than the second on the same images.

    Images are the same when their id and the content of their files are. Each run is evaluated on
    those of the stores that hold its features; of several with the same images, on the first.
    Nothing is written.

    Example:
        >>> comparison = compare("runs/one", "runs/other", store)
        >>> [(one.metric, one.difference) for one in comparison.means]

    Args:
        first: A run or another source of maps, or several runs that differ in their seed alone.
        second: As `first`.
        stores: Stores to evaluate on, of one view; for maps of no run also datasets.
        split: Split to evaluate.
        generators: Generators to evaluate; None takes all.
        beside: Stores of the same images for decoders that take features of several stores.
        batch_size: Images a step.
        device: Where to compute.
        reuse: Take values that were saved in the runs' folders.
        progress: Called with numbers of runs: done and all.
        on_evaluation: Called with the evaluation of each run, for example to save it.

    Raises:
        InputError: For runs that are not finished, the same decoder on both sides, runs of one side
            that differ in more than their seed, stores of several views, or no common image.
        IdentityMismatchError: For a run whose features no store has.
    """
    sides: list[list[MapSource]] = []
    repeated: list[Path] = []
    for side in (first, second):
        given = [side] if isinstance(side, RunLike | MapSource) else list(side)
        sources, again = distinct_sources(given)
        sides.append(sources)
        repeated += again
    opened, stores_again = distinct_stores(as_images(stores))
    plan = plan_comparison(
        sides[0],
        sides[1],
        opened,
        split=split,
        generators=generators,
        beside=[as_store(one) for one in beside],
    )
    found: dict[Path, Evaluation] = {}
    for number, one in enumerate(plan):
        progress(number, len(plan))
        evaluation = evaluate(
            one.source,
            one.stores,
            split=split,
            generators=generators,
            beside=one.beside,
            batch_size=batch_size,
            device=device,
            reuse=reuse,
        )
        on_evaluation(evaluation)
        found[one.source.path] = evaluation
    progress(len(plan), len(plan))
    ours, theirs = ([found[one.path] for one in side] for side in sides)
    images = {path: set(one.images()) for path, one in found.items()}
    shared = set.intersection(*images.values())
    left_out = {path: len(own - shared) for path, own in images.items() if own - shared}
    means = compared_means(ours, theirs)
    return Comparison(
        tuple(means), tuple(ours), tuple(theirs), left_out, (*repeated, *stores_again)
    )


def plan_comparison(
    first: Sequence[RunLike | MapSource],
    second: Sequence[RunLike | MapSource],
    stores: Sequence[LabelledImages],
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> list[PlannedEvaluation]:
    """Check everything before the first run is evaluated, and choose each run's stores.

    Arguments and errors as for `compare`.
    """
    sides = [[as_map_source(one) for one in side] for side in (first, second)]
    for side in sides:
        groups = group_by_fields(side, lambda one: configured(one.config()))
        if len(groups) > 1:
            names = ", ".join(str(one.path) for one in side)
            differing = "; ".join(group.title() for group in groups)
            raise InputError(
                f"{names} differ in more than their seed ({differing}); expected one run, or runs "
                "of one `declip-pipe train --seeds`"
            )
    sources = [one for side in sides for one in side]
    _require_different(sources)
    views = sorted({store.view for store in stores})
    if len(views) > 1:
        raise InputError(
            f"stores of {len(views)} views, {', '.join(views)}; expected one, or images would "
            "count twice; compare on one view at a time"
        )
    plan = []
    for source in sources:
        own, others = _stores_of(source, stores, beside)
        selection = Selection(own, split=split, generators=generators, beside=others)
        selection.check(source)
        covered: set[Image] = set()
        chosen = []
        for part in selection.parts:
            samples = part.store.samples.take(part.rows).table
            columns = ("id", "image_sha256", "mask_sha256")
            images = set(zip(*(samples.column(one).to_pylist() for one in columns), strict=True))
            if not images <= covered:
                covered |= images
                chosen.append(part.store)
        plan.append(PlannedEvaluation(source, tuple(chosen), tuple(others)))
    return plan


def compared_means(
    first: Sequence[Evaluation], second: Sequence[Evaluation]
) -> list[ComparedMeans]:
    """Return every metric's difference, by generator and, of several generators, overall.

    Images that any run lacks, and those without a fake pixel, are left out. Scenes are resampled,
    so that several forgeries of one photograph count as one.

    Raises:
        InputError: When no image is left.
    """
    sides = [list(first), list(second)]
    shared = set(sides[0][0].images()).intersection(
        *(one.images() for side in sides for one in side)
    )
    # In one order for all, whatever the order in the stores.
    order = sorted(shared, key=lambda image: (image[0], image[1] or b"", image[2] or b""))
    aligned = [[one.take(order) for one in side] for side in sides]
    fakes = aligned[0][0].values("has_fake")
    if not fakes.any():
        counts = len(first[0].images()), len(second[0].images())
        raise InputError(
            f"no image with a fake pixel was evaluated for both: {counts[0]} of the first run, "
            f"{counts[1]} of the second, none the same; give stores of one dataset"
        )
    names = aligned[0][0].values("generator")[fakes]
    scenes = aligned[0][0].values("scene")[fakes]
    groups = {str(name): names == name for name in sorted(set(names.tolist()))}
    if len(groups) > 1:
        groups[OVERALL] = np.ones(len(names), bool)
    found = []
    for name, chosen in groups.items():
        for metric in METRICS:
            ours, theirs = (localization_values(side, metric)[:, chosen] for side in aligned)
            if np.isnan(ours).any() or np.isnan(theirs).any():
                continue  # a run that keeps no threshold
            difference = paired_difference(ours, theirs, scenes=scenes[chosen])
            means = float(ours.mean()), float(theirs.mean())
            found.append(ComparedMeans(name, metric, int(chosen.sum()), *means, difference))
    return found


def _require_different(sources: Sequence[MapSource]) -> None:
    seen: dict[str, MapSource] = {}
    names: set[Path] = set()
    for source in sources:
        known = seen.setdefault(source.fingerprint, source)
        if known is not source:
            raise InputError(
                f"{known.path} and {source.path} have the same weights; expected two different runs"
            )
        if source.path in names:
            raise InputError(f"two sides are called {source.path}; give each its own name")
        names.add(source.path)


def _stores_of(
    source: MapSource, stores: Sequence[LabelledImages], beside: Sequence[Store]
) -> tuple[list[LabelledImages], list[Store]]:
    """Return those of the stores that hold a source's features, and the stores beside them.

    A decoder of several backbones may have the others' features in the other stores.
    """
    reasons: list[InputError | IdentityMismatchError] = []
    known = [store for store in stores if isinstance(store, Store)]
    for others in (list(beside), [*beside, *known]):
        own: list[LabelledImages] = []
        for store in stores:
            try:
                source.opened([store], others)
                own.append(store)
            except (InputError, IdentityMismatchError) as error:
                reasons.append(error)
        if own:
            return own, others
    if len(stores) == 1:
        raise reasons[0]
    raise IdentityMismatchError(
        f"none of the {len(stores)} stores has the features of the run {source.path}, "
        f"{method_of(source.config())}; give a store of them with `on`"
    )
