"""Check that a training learns: scores against a constant map's, and against its loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from declip_pipeline.decoders.names import LDA, is_published_type
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.validation_score import SCORES

WATCHED_FROM = 5
"""Epoch from which on a training that has learned nothing says so while it runs."""

FALLEN = 0.9
"""The loss has fallen when it is below this share of the first epoch's."""

NEARLY = 0.5
"""Points above a constant map's score within which a score is that of one.

Scores of maps that are the same everywhere differ from it by rounding, and by a pixel or two.
"""

LITTLE = 0.25
"""A best first epoch is a problem below this share of the way from a constant map's score to 100.

On many images a decoder may learn all it can in one epoch, and then fit them too well.
"""

FEW_STEPS = 20
"""Steps an epoch below which a smaller batch is advised: the paper's trainings have 140."""

MARK = "!"
"""Stands behind figures of runs that learned nothing or too little; see `learning_problem`."""

MARK_MEANING = f"{MARK} of a run that learned nothing: `declip-pipe runs ls` says why"


def learning_problem(
    records: Sequence[Mapping[str, Any]], constant: float, recipe: Recipe, train_images: int
) -> str | None:
    """Return what is wrong with how a run learned so far and what to change, None if nothing is.

    Args:
        records: Records of its epochs, at least one.
        constant: Validation score in percent of the best constant map.
        recipe: Its recipe.
        train_images: Number of images of an epoch.
    """
    name = SCORES[recipe.score]
    scores = [float(record[f"valid_{recipe.score}"]) for record in records]
    first, last = (float(records[place]["train_loss"]) for place in (0, -1))
    falls = last < FALLEN * first
    loss = f"the loss {'fell' if falls else 'went'} from {first:.3g} to {last:.3g}"
    best = max(scores)
    if best <= constant + NEARLY:
        what = (
            f"its best validation {name}, {best:.2f}, is not above that of a constant map, "
            f"{constant:.2f}, while {loss}"
        )
    elif (
        falls
        and len(scores) > WATCHED_FROM
        and scores.index(best) == 0
        and best < constant + LITTLE * (100 - constant)
    ):
        what = (
            f"its validation {name} was best in the first of {len(scores)} epochs, {best:.2f}, "
            f"while {loss}"
        )
    else:
        return None
    ways = _ways_out(recipe, -(-train_images // recipe.batch_size))
    return f"it learned nothing: {what}; try {', '.join(ways[:-1])} or {ways[-1]}"


def _ways_out(recipe: Recipe, steps: int) -> list[str]:
    """Return what to change, at least two things, after epochs of so many steps."""
    if recipe.decoder_type == LDA:
        return ["other layers", "another `normalize`", "another `shrinkage`"]
    longer = "a larger `patience`" if recipe.schedule == "plateau" else "more `epochs`"
    ways = ["another `learning_rate`", longer]
    if steps < FEW_STEPS:
        one = "1 step" if steps == 1 else f"{steps} steps"
        ways.insert(0, f"a smaller `batch_size` (an epoch has {one})")
    if recipe.initialization == "paper" and is_published_type(recipe.decoder_type):
        ways.append('`initialization="pytorch"`')
    return ways
