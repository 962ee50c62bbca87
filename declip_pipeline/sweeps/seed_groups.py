"""Evaluations of runs that differ in their seed only, taken together."""

from collections.abc import Sequence
from typing import TypeVar

from declip_pipeline.evaluation.figures import Figures, figures_with_intervals
from declip_pipeline.evaluation.localization import by_generator
from declip_pipeline.sweeps.cross_evaluation import Evaluation
from declip_pipeline.sweeps.detection_evaluation import DetectionEvaluation

Judged = TypeVar("Judged", Evaluation, DetectionEvaluation)


def seed_groups(evaluations: Sequence[Judged]) -> list[list[Judged]]:
    """Groups of the same kind of run on the same pictures of one store, sorted by seed.

    Every evaluation is in one group, alone where no other seed was judged; of runs with the same
    seed the first counts. Groups come in the order of their first evaluations.
    """
    groups: dict[tuple[object, ...], dict[int | None, Judged]] = {}
    for one in evaluations:
        key = (one.kind, one.store, tuple(result.id for result in one.results))
        groups.setdefault(key, {}).setdefault(one.seed, one)
    return [sorted(group.values(), key=lambda one: one.seed or 0) for group in groups.values()]


def figures_over_seeds(group: Sequence[Evaluation]) -> tuple[dict[str, Figures], Figures]:
    """Figures over scenes and seeds: by generator, and of all pictures."""
    named = [by_generator(one.results) for one in group]
    figures = {name: figures_with_intervals([one[name] for one in named]) for name in named[0]}
    return figures, figures_with_intervals([one.results for one in group])
