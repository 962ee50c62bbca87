"""Training: epochs until the schedule says stop, the best weights kept, resumable; one or several
decoders side by side."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from declip_pipeline.compute import MapParts, exact_float32, is_out_of_memory, mapping_parts
from declip_pipeline.decoders.file import encode_decoder
from declip_pipeline.errors import DeclipError, TrainingError
from declip_pipeline.feeding.batch import Batch, BatchFeed
from declip_pipeline.feeding.inputs import DecoderInputs
from declip_pipeline.training.augmentation import Augmentation
from declip_pipeline.training.epochs import epoch_order
from declip_pipeline.training.learner import Learner, LookingLearner
from declip_pipeline.training.learning import WATCHED_FROM, learning_problem
from declip_pipeline.training.pace import Pace
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.schedules import make_schedule
from declip_pipeline.training.validation import VALIDATIONS, Candidate, best_thresholds
from declip_pipeline.training.validation_score import ScoreName, score_name

# Images of a step that an error names.
SHOWN_IDS = 8


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: mean training loss, validation score in percent, seconds.

    Of decoders trained side by side, each has its share of the seconds.
    """

    epoch: int
    train_loss: float
    valid_score: float
    learning_rate: float
    seconds: float
    score: ScoreName = "iou"

    def to_json(self) -> dict[str, Any]:
        """A record of `metrics.jsonl`, which calls the score by its name."""
        return {
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            f"valid_{self.score}": self.valid_score,
            "learning_rate": self.learning_rate,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Epoch":
        """The inverse of `to_json`."""
        values = dict(record)
        name = score_name(values)
        return cls(valid_score=values.pop(f"valid_{name}"), score=name, **values)


class Training:
    """One run under way: what learns, how far it is, and what is kept of it.

    It goes on from the state that the run's folder holds. `error` says why it was given up.
    """

    def __init__(
        self,
        run: Run,
        inputs: DecoderInputs,
        recipe: Recipe,
        learner: Learner,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        *,
        constant_score: float = 0.0,
        train_images: int = 1,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Begin a run, or go on with it.

        Args:
            run: Its folder.
            inputs: What the decoder takes.
            recipe: How it is trained.
            learner: What is trained.
            on_epoch: Called after each epoch.
            constant_score: Validation score of a constant map, in percent.
            train_images: Number of images of an epoch.
            notice: Called once with a line where the run learns nothing.
        """
        self.run = run
        self.inputs = inputs
        self.recipe = recipe
        self.learner = learner
        self.error: DeclipError | None = None
        self.epoch = 0
        self._on_epoch = on_epoch
        self._constant_score = constant_score
        self._train_images = train_images
        self.notice = notice
        self._has_warned = False
        steps = -(-train_images // recipe.batch_size)
        self._schedule = make_schedule(recipe, steps)
        self._augmentation = Augmentation.of(recipe)
        self._best_score, self._best_epoch = -1.0, 0
        state = run.load_state()
        if state is not None:
            learner.load_state(state["learner"])
            self._schedule = make_schedule(recipe, steps, state["schedule"])
            self._best_score, self._best_epoch = state["best_score"], state["best_epoch"]
            self.epoch = state["epoch"]
        self._records = run.epochs()
        self._rate = recipe.learning_rate
        # Of each step, of each of its pieces.
        self._losses: list[list[torch.Tensor]] = []

    @property
    def is_done(self) -> bool:
        """Return whether nothing is left to be learned, or it was given up."""
        is_over = self.epoch >= self.recipe.most_epochs or self._schedule.stopped
        return self.error is not None or is_over

    @property
    def mixes(self) -> bool:
        """Return whether each image is mixed with another one of its batch."""
        return self._augmentation is not None and self._augmentation.mixup > 0

    def begin_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self._losses.clear()
        self._rate = self._schedule.learning_rate
        self.learner.begin_epoch(self._rate)

    def begin_step(self) -> None:
        """Begin a batch."""
        self._losses.append([])
        self.learner.set_learning_rate(self._schedule.learning_rate)

    def compute(self, piece: Batch, followers: Batch | None, share: float) -> Any:
        """Compute what a piece that is `share` of its batch teaches.

        `followers` are other images of the batch, one for each of the piece, where it `mixes`.
        """
        sources = self.inputs.sources
        inputs, targets = piece.inputs(sources), piece.targets
        if self._augmentation is not None:
            inputs, targets = self._augmentation.augmented(
                piece, followers, sources, self.inputs.shapes, self.epoch
            )
        return self.learner.compute(inputs, targets, share)

    def end_step(self) -> None:
        """Update the decoder, and the learning rate."""
        self.learner.update()
        self._schedule.after_step()

    def accumulate(self, computed: Any, share: float) -> None:
        """Take in what `compute` gave for a piece that is `share` of its batch."""
        loss = self.learner.accumulate(computed)
        # Looked at once an epoch: to look at each step would wait for the device at each step.
        self._losses[-1].append(loss * share)

    def mean_loss(self, sizes: Sequence[int], name_step: Callable[[int], str]) -> float:
        """The epoch's mean loss over images; `sizes` are its batches', `name_step` names one's.

        Raises `TrainingError` when it, or what was learned, is not finite.
        """
        losses = torch.stack([torch.stack(pieces).sum() for pieces in self._losses])
        losses = losses.double().cpu()
        mean = float((losses * torch.tensor(sizes)).sum() / sum(sizes))
        step = len(losses) - 1
        if not math.isfinite(mean):
            step = int((~torch.isfinite(losses)).nonzero()[0])
            wrong = f"the training loss is {float(losses[step])}"
        elif not self.learner.is_finite():
            # The loss of a step is that before it: what the last one did shows in no loss.
            wrong = "the decoder's weights are no longer finite"
        else:
            return mean
        kept = f"the state after epoch {self.epoch - 1} is kept; " if self.epoch > 1 else ""
        raise TrainingError(
            f"{wrong} in epoch {self.epoch}, step {step + 1} ({name_step(step)}); {kept}"
            "try a lower `learning_rate`"
        )

    def candidate(self) -> Candidate:
        """Return the decoder in its present state, for validation."""
        learner = self.learner
        return Candidate(learner.learned, learner.logits, self.inputs.sources, learner.piece_size)

    def end_epoch(self, loss: float, score: float, seconds: float) -> None:
        """Take in how the epoch went, and keep the state."""
        rate = self._rate
        ended = Epoch(self.epoch, loss, score, rate, seconds, self.recipe.score)
        self._schedule.after_epoch(score)
        best = None
        if score > self._best_score:
            self._best_score, self._best_epoch = score, self.epoch
            best = encode_decoder(self.learner.learned, self.inputs.features)
        self._records.append(ended.to_json())
        state = {
            "epoch": self.epoch,
            "best_epoch": self._best_epoch,
            "best_score": self._best_score,
            "schedule": self._schedule.to_state(),
        }
        self.run.save_state(self.learner.state(), state, self._records, best)
        self._on_epoch(ended)
        if self.epoch >= WATCHED_FROM and not self._has_warned and (problem := self._problem()):
            self._has_warned = True
            self.notice(f"{self.run.path.name}: after {self.epoch} epochs, {problem}")

    def _problem(self) -> str | None:
        return learning_problem(
            self._records, self._constant_score, self.recipe, self._train_images
        )

    def finish(
        self, train_images: int, valid_images: int, threshold: tuple[float, float] | None
    ) -> None:
        """Write the summary: the run is finished.

        Args:
            train_images: Number of training images.
            valid_images: Number of validation images.
            threshold: Threshold that is best on the latter, and its IoU in percent; None in
                detection.
        """
        best, _ = self.run.best_decoder()
        summary = {
            f"best_valid_{self.recipe.score}": self._best_score,
            "best_epoch": self._best_epoch,
            "epochs": self.epoch,
            "stopped_by": "schedule" if self._schedule.stopped else "epochs",
            "train_images": train_images,
            "valid_images": valid_images,
            "parameters": sum(value.numel() for value in best.parameters()),
            "seconds": sum(record["seconds"] for record in self._records),
            "constant_score": self._constant_score,
            "problem": self._problem(),
        }
        if threshold is not None:
            summary |= {"valid_threshold": threshold[0], "valid_iou_at_threshold": threshold[1]}
        if best.fusion is not None and best.fusion.weights is not None:
            summary["layer_weights"] = dict(
                zip(self.inputs.names, best.fusion.weights, strict=True)
            )
        self.run.finish(summary)

    def best_candidate(self, device: torch.device) -> Candidate:
        """Return the best decoder so far, for maps as an evaluation computes them."""
        decoder = self.run.best_decoder()[0].to(device)

        def logits(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            with exact_float32(device):
                found: torch.Tensor = decoder(*inputs)
            return found

        return Candidate(decoder, logits, self.inputs.sources, self.learner.piece_size)


def train_side_by_side(
    trainings: Sequence[Training], train_feed: BatchFeed, valid_feed: BatchFeed
) -> None:
    """Bring trainings to their end, those at the same epoch from the same batches.

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
    thresholds = _thresholds(ended, valid_feed)
    for training, threshold in zip(ended, thresholds, strict=True):
        training.finish(len(train_feed), len(valid_feed), threshold)


def _thresholds(
    ended: Sequence[Training], valid_feed: BatchFeed
) -> Sequence[tuple[float, float] | None]:
    """Return the best threshold of each training on the validation images, and its IoU."""
    if not ended or ended[0].recipe.pooling is not None:
        return [None] * len(ended)
    recipe = ended[0].recipe
    candidates = [training.best_candidate(valid_feed.device) for training in ended]
    return best_thresholds(candidates, valid_feed, recipe.batch_size, recipe.with_real)


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
        pace = None
        if is_first:
            left = max(one.recipe.most_epochs - one.epoch + 1 for one in together)
            pace = Pace(-(-len(order) // recipe.batch_size), left, train_feed.device)
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
        for batch in feed.batches(np.arange(len(feed)), together[0].recipe.batch_size):
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
            line = _constant_channels(name, channels)
            if channels and line not in said:
                said[line] = None
                training.notice(line)
    return [training for training in together if training.error is None]


def _constant_channels(layer: str, channels: Sequence[int]) -> str:
    """Return a line on the constant channels of a layer."""
    shown = ", ".join(map(str, channels[:SHOWN_IDS])) + (", ..." if channels[SHOWN_IDS:] else "")
    return (
        f"{layer}: {len(channels)} channel{'s are' if channels[1:] else ' is'} constant over the "
        f"training images ({shown}); centred, not scaled"
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
