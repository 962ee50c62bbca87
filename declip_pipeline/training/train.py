"""One training: epochs until the schedule says stop, the best weights kept, resumable."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.decoder_file import save_decoder
from declip_pipeline.decoders.initialization import InitializationScheme, initialize
from declip_pipeline.errors import TrainingError
from declip_pipeline.evaluation.localization import validation_iou
from declip_pipeline.feature_shape import FeatureShape
from declip_pipeline.feeding.layer_feed import LayerFeed
from declip_pipeline.seeding import permutation
from declip_pipeline.training.optimization import (
    make_optimizer,
    set_learning_rate,
    training_loss,
)
from declip_pipeline.training.plateau_schedule import PlateauSchedule
from declip_pipeline.training.run_folder import RunFolder

# Pictures of a step that an error names.
SHOWN_IDS = 8


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: mean training loss, validation IoU in percent, seconds."""

    epoch: int
    train_loss: float
    valid_iou: float
    learning_rate: float
    seconds: float


def train_decoder(
    run: RunFolder,
    train_feed: LayerFeed,
    valid_feed: LayerFeed,
    features: dict[str, Any],
    *,
    decoder_type: str,
    widths: Sequence[int] | None = None,
    initialization: InitializationScheme = "paper",
    seed: int = 0,
    epochs: int = 400,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    patience: int = 5,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Train a decoder, or finish a training that was interrupted; returns the summary.

    `features` is the identity of the feeds' features, kept with the weights. The order of samples
    depends on (seed, epoch) alone, so that a resumed training ends as an undisturbed one does.

    Raises `TrainingError` when the loss is no longer finite; the last good state is kept.
    Source: the reference's training loop (DeCLIP, arXiv 2409.08849).
    """
    device = train_feed.device
    decoder = build_decoder(decoder_type, FeatureShape.from_json(features["shape"]), widths=widths)
    initialize(decoder, initialization, seed)
    # Convolutions are faster on this layout on CPUs and GPUs alike; other layers ignore it.
    decoder.to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(decoder, learning_rate)
    schedule = PlateauSchedule(learning_rate=learning_rate, patience=patience)
    best_iou, best_epoch, epoch = -1.0, 0, 0
    state = run.load_state()
    if state is not None:
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        schedule = PlateauSchedule(**state["schedule"])
        best_iou, best_epoch, epoch = state["best_iou"], state["best_epoch"], state["epoch"]
    records = run.epochs()[:epoch]
    while epoch < epochs and not schedule.stopped:
        epoch += 1
        started = time.perf_counter()
        set_learning_rate(optimizer, schedule.learning_rate)
        loss = _one_epoch(decoder, optimizer, train_feed, seed, epoch, batch_size)
        iou = validation_iou(decoder, valid_feed, batch_size)
        finished = Epoch(epoch, loss, iou, schedule.learning_rate, time.perf_counter() - started)
        schedule.after_epoch(iou)
        if iou > best_iou:
            best_iou, best_epoch = iou, epoch
            save_decoder(run.best_checkpoint, decoder, features)
        records.append(vars(finished))
        run.record_epochs(records)
        run.save_state(
            {
                "decoder": decoder.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.to_state(),
                "best_iou": best_iou,
                "best_epoch": best_epoch,
                "epoch": epoch,
            }
        )
        on_epoch(finished)
    summary = {
        "best_valid_iou": best_iou,
        "best_epoch": best_epoch,
        "epochs": epoch,
        "stopped_by": "schedule" if schedule.stopped else "epochs",
        "train_images": len(train_feed),
        "valid_images": len(valid_feed),
        "parameters": sum(value.numel() for value in decoder.parameters()),
        "seconds": sum(record["seconds"] for record in records),
    }
    run.finish(summary)
    return summary


def _one_epoch(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    feed: LayerFeed,
    seed: int,
    epoch: int,
    batch_size: int,
) -> float:
    """Train once on every sample; returns the mean loss over samples."""
    decoder.train()
    total = torch.zeros((), device=feed.device)
    losses: list[torch.Tensor] = []
    order = permutation(len(feed), seed, "epoch", epoch)
    for batch in feed.batches(order, batch_size):
        loss = training_loss(decoder, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        total += losses[-1] * len(batch.positions)
    # Looked at once an epoch: to look at each step would wait for the device at each step.
    mean = float(total) / len(feed)
    if not math.isfinite(mean):
        wrong = ~torch.isfinite(torch.stack(losses))
        step = int(wrong.nonzero()[0]) if wrong.any() else len(losses) - 1
        ids = feed.sample_ids(order[step * batch_size : (step + 1) * batch_size])
        pictures = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
        raise TrainingError(
            f"the training loss is {float(losses[step])} in epoch {epoch}, step {step + 1} "
            f"({pictures}); the state after epoch {epoch - 1} is kept; try a lower --learning-rate"
        )
    return mean
