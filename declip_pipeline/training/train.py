"""Training: one run under way, epochs until the schedule says stop, the best weights kept."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.file import encode_decoder
from declip_pipeline.errors import DeclipError, TrainingError
from declip_pipeline.feeding.batch import Batch
from declip_pipeline.feeding.inputs import DecoderInputs
from declip_pipeline.training.augmentation import Augmentation
from declip_pipeline.training.learner import Learner
from declip_pipeline.training.learning import WATCHED_FROM, learning_problem
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import REAL_SHARES_FILE, Run
from declip_pipeline.training.schedules import make_schedule
from declip_pipeline.training.validation import BestMasks, Candidate
from declip_pipeline.training.validation_score import ScoreName, score_name


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
        self,
        train_images: int,
        valid_images: int,
        masks: BestMasks | None,
        score_threshold: tuple[float, float] | None,
        real_shares: np.ndarray | None,
    ) -> None:
        """Write the summary: the run is finished.

        Args:
            train_images: Number of training images.
            valid_images: Number of validation images.
            masks: What makes the best masks of the latter; None in detection.
            score_threshold: Threshold of image scores that is best on the split `valid`, and its
                balanced accuracy in percent; None where the split has no real image.
            real_shares: Shares of the pixels that are called fake in the real images of `valid`;
                None in detection, or without such images.
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
        if masks is not None:
            summary["valid_threshold"] = masks.threshold
            summary["valid_iou_at_threshold"] = masks.threshold_iou
        if masks is not None and masks.min_region is not None:
            summary["valid_min_region"] = masks.min_region
            summary["valid_iou_at_min_region"] = masks.min_region_iou
        if score_threshold is not None:
            summary["valid_score_threshold"] = score_threshold[0]
            summary["valid_balanced_accuracy"] = score_threshold[1]
        if best.fusion is not None and best.fusion.weights is not None:
            summary["layer_weights"] = dict(
                zip(self.inputs.names, best.fusion.weights, strict=True)
            )
        files = {} if real_shares is None else {REAL_SHARES_FILE: _npy(real_shares)}
        self.run.finish(summary, files)

    def best_candidate(self, device: torch.device) -> Candidate:
        """Return the best decoder so far, for maps as an evaluation computes them."""
        decoder = self.run.best_decoder()[0].to(device)

        def logits(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            with exact_float32(device):
                found: torch.Tensor = decoder(*inputs)
            return found

        return Candidate(decoder, logits, self.inputs.sources, self.learner.piece_size)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
