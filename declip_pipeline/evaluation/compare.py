"""Compare runs, or groups of seeds, on the same images: a ranking, and differences of all pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.ensemble import as_map_source, distinct_sources
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import Evaluation, Image
from declip_pipeline.evaluation.groups import configured, group_by_fields, method_of
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.evaluation.map_source import MapSource
from declip_pipeline.evaluation.metrics import chosen_metrics
from declip_pipeline.evaluation.pairs import (
    PairDifference,
    RankedMean,
    compared,
    lacking_values,
    metrics_of,
)
from declip_pipeline.evaluation.scores import MEAN_SIGMOID, Progress, Task
from declip_pipeline.evaluation.selection import ImagesLike, Selection, as_images
from declip_pipeline.store.reader import Store, StoreLike, as_store, distinct_stores
from declip_pipeline.training.run import RunLike

SourceLike = RunLike | MapSource
"""A run, its folder, or another source of maps."""


@dataclass(frozen=True)
class Comparison:
    """Several sides, each a run or several seeds of it, on the same images.

    Attributes:
        means: Every metric of every side by generator and, of several generators, overall.
        pairs: The differences of all pairs of sides, in the same order.
        sides: Evaluations of each side.
        left_out: Number of each run's images that another run lacks, by the run's folder.
        repeated: Folders of runs and locations of stores that were given again; each is taken once.
        lacking: Metrics that are not compared, each with the sides that have no values of it.
    """

    means: tuple[RankedMean, ...]
    pairs: tuple[PairDifference, ...]
    sides: tuple[tuple[Evaluation, ...], ...]
    left_out: dict[Path, int]
    repeated: tuple[Path | str, ...] = ()
    lacking: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def mean(self, side: int, metric: str, generator: str) -> RankedMean:
        """Return a side's mean of a metric, of one generator or "overall"."""
        wanted = (side, metric, generator)
        return next(one for one in self.means if (one.side, one.metric, one.generator) == wanted)


@dataclass(frozen=True)
class PlannedEvaluation:
    """A source of maps with the stores that it is evaluated on, and the stores beside them."""

    source: MapSource
    stores: tuple[LabelledImages, ...]
    beside: tuple[Store, ...]


def compare(
    sides: Sequence[SourceLike | Sequence[SourceLike]],
    stores: ImagesLike | Sequence[ImagesLike],
    *,
    task: Task = "localization",
    metrics: str | Sequence[str] | None = None,
    split: str = "test",
    generators: Sequence[str] | None = None,
    beside: Sequence[StoreLike] = (),
    batch_size: int = 64,
    device: str | torch.device = "auto",
    reuse: bool = True,
    progress: Progress = lambda done, total: None,
    on_evaluation: Callable[[Evaluation], object] = lambda evaluation: None,
) -> Comparison:
    """Rank runs on the same images, and say by how much each is better than each other.

    Images are the same when their id and the content of their files are. Each run is evaluated on
    those of the stores that hold its features; of several with the same images, on the first.
    P-values are corrected by Holm's method for the number of pairs of each metric and generator,
    not for the number of metrics and generators. Nothing is written.

    Example:
        >>> comparison = compare(["runs/one", "runs/other"], store)
        >>> [(one.metric, one.difference) for one in comparison.pairs]

    Args:
        sides: At least two; each is a run or another source of maps, or several runs that differ in
            their seed alone.
        stores: Stores to evaluate on, of one view; for maps of no run also datasets.
        task: As in `evaluate`. Images of "detection" are scored by the mean of their map's
            probabilities, and AP and AUC are of all images together.
        metrics: Names of metrics, or "all"; None takes `DEFAULT_METRICS`, of detection all. Of the
            two, metrics that a side has no values of are left out, see `Comparison.lacking`.
        split: Split to evaluate.
        generators: Generators to evaluate; None takes all.
        beside: Stores of the same images for decoders that take features of several stores.
        batch_size: Images a step.
        device: Where to compute.
        reuse: Take values that were saved in the runs' folders.
        progress: Called with numbers of runs: done and all.
        on_evaluation: Called with the evaluation of each run, for example to save it.

    Raises:
        InputError: For fewer than two sides, runs that are not finished, the same decoder or the
            same maps on two sides, runs of one side that differ in more than their seed, stores of
            several views, no common image, or a named metric that a side has no values of.
        UnknownNameError: For another task or metric.
        IdentityMismatchError: For a run whose features no store has.
    """
    opened_sides: list[list[MapSource]] = []
    repeated: list[Path] = []
    for side in sides:
        given = [side] if isinstance(side, RunLike | MapSource) else list(side)
        own, again = distinct_sources(given)
        opened_sides.append(own)
        repeated += again
    opened, stores_again = distinct_stores(as_images(stores))
    plan = plan_comparison(
        opened_sides,
        opened,
        task=task,
        split=split,
        generators=generators,
        beside=[as_store(one) for one in beside],
    )
    chosen_metrics(metrics, metrics_of(task))
    found: dict[Path, Evaluation] = {}
    for number, one in enumerate(plan):
        progress(number, len(plan))
        evaluation = evaluate(
            one.source,
            one.stores,
            split=split,
            generators=generators,
            beside=one.beside,
            task=task,
            batch_size=batch_size,
            device=device,
            reuse=reuse,
        )
        on_evaluation(evaluation)
        found[one.source.path] = evaluation
    progress(len(plan), len(plan))
    evaluated = tuple(tuple(found[one.path] for one in side) for side in opened_sides)
    images = {path: set(one.images()) for path, one in found.items()}
    shared = set.intersection(*images.values())
    left_out = {path: len(own - shared) for path, own in images.items() if own - shared}
    means, pairs = compared(evaluated, score=MEAN_SIGMOID, metrics=metrics)
    return Comparison(
        tuple(means),
        tuple(pairs),
        evaluated,
        left_out,
        (*repeated, *stores_again),
        lacking_values(evaluated, metrics),
    )


def plan_comparison(
    sides: Sequence[Sequence[SourceLike]],
    stores: Sequence[LabelledImages],
    *,
    split: str,
    task: Task = "localization",
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> list[PlannedEvaluation]:
    """Check everything before the first run is evaluated, and choose each run's stores.

    Arguments and errors as for `compare`.
    """
    if len(sides) < 2:
        raise InputError(f"{len(sides)} run to compare; expected at least two")
    opened = [[as_map_source(one) for one in side] for side in sides]
    for side in opened:
        groups = group_by_fields(side, lambda one: configured(one.config()))
        if len(groups) > 1:
            names = ", ".join(str(one.path) for one in side)
            differing = "; ".join(group.title() for group in groups)
            raise InputError(
                f"{names} differ in more than their seed ({differing}); expected one run, or runs "
                "of one `declip-pipe train --seeds`"
            )
    sources = [one for side in opened for one in side]
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
        selection = Selection(own, split=split, generators=generators, beside=others, task=task)
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


def _require_different(sources: Sequence[MapSource]) -> None:
    seen: dict[str, MapSource] = {}
    names: set[Path] = set()
    read: dict[tuple[Path, str | None], MapFolder] = {}
    for source in sources:
        if isinstance(source, MapFolder):
            first = read.setdefault((source.folder.resolve(), source.maps_key), source)
            if first.path != source.path:
                raise InputError(
                    f"{first.name} and {source.name} are the same maps, those of "
                    f"{source.folder.resolve()}; expected a folder of each"
                )
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
