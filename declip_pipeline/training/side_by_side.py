"""Trainings side by side: several decoders learn from the same batches in one pass."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from declip_pipeline.compute import MapParts, is_out_of_memory, mapping_parts
from declip_pipeline.errors import TrainingError
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.training.epochs import epoch_order
from declip_pipeline.training.learner import LookingLearner
from declip_pipeline.training.pace import Pace
from declip_pipeline.training.train import Training
from declip_pipeline.training.validation import (
    VALIDATIONS,
    BestMasks,
    best_masks,
    real_shares,
    score_thresholds,
)

# Images of a step that an error names.
SHOWN_IDS = 8


def train_side_by_side(
    trainings: Sequence[Training],
    train_feed: BatchFeed,
    valid_feed: BatchFeed,
    score_feed: BatchFeed | None = None,
) -> None:
    """Bring trainings to their end, those at the same epoch from the same batches.

    `score_feed` has the fakes and real images of `valid`, for thresholds of image scores; without
    one no run keeps such a threshold.
    All have the task, seed, batch size and share of real images of the first, and compute in
    threads as it does. The order of samples depends on (seed, epoch) alone, so that a resumed
    training ends as an undisturbed one does, and one in company as one by itself. A training that
    cannot go on is given up with its `error`, the last good state is kept, and the others go on.
    Source: the reference's training loop (DeCLIP, arXiv 2409.08849).
    """
    is_first = True
    while unfinished := [training for training in trainings if not training.is_done]:
        epoch = min(training.epoch for training in unfinished)
        together = [one for one in unfinished if one.epoch == epoch]
        _one_epoch(together, train_feed, valid_feed, is_first=is_first)
        is_first = False
    ended = [training for training in trainings if training.error is None]
    if ended:
        _finish(ended, train_feed, valid_feed, score_feed)


def _finish(
    ended: Sequence[Training],
    train_feed: BatchFeed,
    valid_feed: BatchFeed,
    score_feed: BatchFeed | None,
) -> None:
    """Choose on the split `valid` what makes masks of maps, and write the summaries."""
    recipe = ended[0].recipe
    candidates = [training.best_candidate(valid_feed.device) for training in ended]
    none = [None] * len(ended)
    masks: Sequence[BestMasks | None] = none
    of_scores: Sequence[tuple[float, float] | None] = none
    shares: Sequence[np.ndarray | None] = none
    if recipe.pooling is None:
        masks = best_masks(candidates, valid_feed, recipe.batch_size, recipe.with_real)
    if score_feed is not None:
        of_scores = score_thresholds(candidates, score_feed, recipe.batch_size)
    if score_feed is not None and recipe.pooling is None:
        shares = real_shares(candidates, score_feed, recipe.batch_size)
    counts = len(train_feed), len(valid_feed)
    for number, training in enumerate(ended):
        training.finish(*counts, masks[number], of_scores[number], shares[number])


def _one_epoch(
    together: Sequence[Training],
    train_feed: BatchFeed,
    valid_feed: BatchFeed,
    *,
    is_first: bool,
) -> None:
    """Train once on every sample, and validate; the first epoch of several says their pace."""
    started = time.perf_counter()
    recipe = together[0].recipe
    try:
        together = _looked(together, train_feed)
        if not together:
            return
        for training in together:
            training.begin_epoch()
        order = epoch_order(train_feed.labels, recipe.seed, together[0].epoch, recipe.with_real)
        left = max(one.recipe.most_epochs - one.epoch + 1 for one in together)
        steps = -(-len(order) // recipe.batch_size)
        pace = Pace(steps, left, train_feed.device, is_first=is_first)
        with mapping_parts(together[0].learner.threads) as map_pieces:
            sizes = take_steps(together, train_feed, order, map_pieces, pace)
            losses = _finite_losses(together, train_feed, order, sizes)
            good = [training for training in together if training.error is None]
            candidates = [training.candidate() for training in good]
            validate = VALIDATIONS[recipe.score]
            scores = validate(
                candidates, valid_feed, recipe.batch_size, map_pieces, recipe.with_real
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"a batch of {recipe.batch_size} images does not fit into the memory of "
            f"{train_feed.device}; take a `micro_batch_size` of "
            f"{max(1, (recipe.micro_batch_size or recipe.batch_size) // 2)}, or a smaller "
            "`batch_size`"
        ) from error
    seconds = (time.perf_counter() - started) / len(together)
    for training, loss, score in zip(good, losses, scores, strict=True):
        training.end_epoch(loss, score, seconds)


def _looked(together: Sequence[Training], feed: BatchFeed) -> list[Training]:
    """Let those that must see all images before they learn see them; returns who can learn."""
    waiting = [
        (training, training.learner)
        for training in together
        if isinstance(training.learner, LookingLearner) and not training.learner.has_looked
    ]
    if waiting:
        recipe = together[0].recipe
        # Real images by the share that they have in an epoch.
        order = np.sort(epoch_order(feed.labels, recipe.seed, 1, recipe.with_real))
        for batch in feed.batches(order, recipe.batch_size):
            for training, learner in waiting:
                for piece in batch.pieces(learner.piece_size):
                    learner.look(piece.inputs(training.inputs.sources), piece.targets)
    said: dict[str, None] = {}  # trainings side by side often have the same layers
    for training, learner in waiting:
        try:
            constant = learner.end_look()
        except TrainingError as error:
            training.error = error
            continue
        names = training.inputs.names if len(constant) > 1 else [" + ".join(training.inputs.names)]
        for name, channels in zip(names, constant, strict=True):
            line = _constant_channels(name, channels, learner.constant_channels_are)
            if channels and line not in said:
                said[line] = None
                training.notice(line)
    return [training for training in together if training.error is None]


def _constant_channels(layer: str, channels: Sequence[int], what: str) -> str:
    """Return a line on the constant channels of a layer."""
    shown = ", ".join(map(str, channels[:SHOWN_IDS])) + (", ..." if channels[SHOWN_IDS:] else "")
    return (
        f"{layer}: {len(channels)} channel{'s are' if channels[1:] else ' is'} constant over the "
        f"training images ({shown}); {what}"
    )


def take_steps(
    together: Sequence[Training],
    feed: BatchFeed,
    order: np.ndarray,
    map_pieces: MapParts = map,
    pace: Pace | None = None,
) -> list[int]:
    """One step on each batch of the feed in this order (int64 positions); returns their sizes."""
    sizes = []
    for batch in feed.batches(order, together[0].recipe.batch_size):
        for training in together:
            training.begin_step()
        for size in dict.fromkeys(training.learner.piece_size for training in together):
            takers = [training for training in together if training.learner.piece_size == size]
            pieces = list(batch.pieces(size))
            shares = [len(piece) / len(batch) for piece in pieces]
            mixes = any(training.mixes for training in takers)
            followers = list(batch.rolled().pieces(size)) if mixes else [None] * len(pieces)
            taught = map_pieces(
                _what_it_teaches(takers, len(batch)), zip(pieces, followers, strict=True)
            )
            for share, computed in zip(shares, taught, strict=True):
                for training, each in zip(takers, computed, strict=True):
                    training.accumulate(each, share)
        for training in together:
            training.end_step()
        sizes.append(len(batch))
        if pace is not None and (line := pace.after_step()) is not None:
            together[0].notice(line)
    return sizes


def _what_it_teaches(
    takers: Sequence[Training], batch_size: int
) -> Callable[[tuple[Batch, Batch | None]], list[Any]]:
    """Return the function that computes a piece of a batch of that size for each training."""

    def compute(pair: tuple[Batch, Batch | None]) -> list[Any]:
        piece, followers = pair
        share = len(piece) / batch_size
        return [training.compute(piece, followers, share) for training in takers]

    return compute


def _finite_losses(
    together: Sequence[Training], feed: BatchFeed, order: np.ndarray, sizes: Sequence[int]
) -> list[float]:
    """Mean losses of the trainings whose loss is finite; the others are given up."""

    def name_step(step: int) -> str:
        first = sum(sizes[:step])
        ids = feed.sample_ids(order[first : first + sizes[step]])
        return ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")

    losses = []
    for training in together:
        try:
            losses.append(training.mean_loss(sizes, name_step))
        except TrainingError as error:
            training.error = error
    return losses
